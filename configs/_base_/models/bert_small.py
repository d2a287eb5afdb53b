# BERT-small of Turc et al. (arXiv 1908.08962), otherwise as bert_base.py
model = dict(
    type='BertClassifier',
    level='1-1-1',
    pretrained=None,
    bert=dict(hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048))
