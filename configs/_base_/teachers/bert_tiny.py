# what configs/bert_real_tiny_glue_sst2.py leaves; --cfg-options task=mrpc reaches the teacher, too
teacher = dict(
    config=dict(
        type='BertClassifier',
        task='sst2',
        bert=dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512),
        binary_linear=dict(type='Linear')),
    checkpoint='work_dirs/bert_real_tiny_glue_sst2/latest.pth')
