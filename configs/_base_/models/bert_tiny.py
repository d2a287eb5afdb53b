# BERT-tiny of Turc et al. (arXiv 1908.08962), otherwise as bert_base.py
model = dict(
    type='BertClassifier',
    level='1-1-1',
    pretrained=None,
    bert=dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512))
