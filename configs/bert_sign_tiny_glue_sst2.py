# python tools/train.py configs/bert_sign_tiny_glue_sst2.py
# bert_rebnn_tiny_glue_sst2.py with plain signs, without a scale. Accuracy 50.9 after one epoch, chance.
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/datasets/glue_sst2.py',
    './_base_/schedules/adam_glue_tiny.py',
    './_base_/methods/bnn.py',
    './_base_/runtime/glue.py',
]
model = dict(task='sst2', binary_linear={{_base_.binary_linear}})
