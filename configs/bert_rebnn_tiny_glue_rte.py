# python tools/train.py configs/bert_rebnn_tiny_glue_rte.py
# 1-bit BERT-tiny on GLUE RTE. Accuracy 50.9 after three epochs: chance, and without
# pretraining its real-valued twin (52.3) does no better.
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/datasets/glue.py',
    './_base_/schedules/adam_glue_tiny.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
model = dict(task='rte', binary_linear={{_base_.binary_linear}})
