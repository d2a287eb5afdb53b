# MiniLM-L6-H384 of Wang et al. (NeurIPS 2020), otherwise as bert_base.py
model = dict(
    type='BertClassifier',
    level='1-1-1',
    pretrained=None,
    bert=dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536))
