# BERT-base. Levels: '1-32', '1-1', '1-1-1' (attention on bits, too).
# pretrained='FOLDER': real-valued weights to start from, as transformers saves them.
model = dict(
    type='BertClassifier',
    level='1-1-1',
    pretrained=None,
    bert=dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072))
