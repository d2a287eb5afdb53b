# python tools/train.py configs/bert_rebnn_tiny_glue_sst2.py
# 1-bit BERT-tiny on GLUE SST-2. Accuracy 79.3 after one epoch.
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/datasets/glue_sst2.py',
    './_base_/schedules/adam_glue_tiny.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
model = dict(task='sst2', binary_linear={{_base_.binary_linear}})
