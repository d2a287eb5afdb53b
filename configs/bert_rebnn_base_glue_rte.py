# python tools/train.py configs/bert_rebnn_base_glue_rte.py
# 1-bit BERT-base on GLUE RTE. Expected accuracy: not yet measured.
_base_ = [
    './_base_/models/bert_base.py',
    './_base_/datasets/glue.py',
    './_base_/schedules/adam_glue.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
model = dict(task='rte', binary_linear={{_base_.binary_linear}})
