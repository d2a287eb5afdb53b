# python tools/train.py configs/bert_real_base_glue_rte.py
# real-valued twin of bert_rebnn_base_glue_rte.py, and its teacher. Expected accuracy: not yet measured.
_base_ = [
    './_base_/models/bert_base.py',
    './_base_/datasets/glue.py',
    './_base_/schedules/adam_glue.py',
    './_base_/methods/real.py',
    './_base_/runtime/glue.py',
]
model = dict(task='rte', binary_linear={{_base_.binary_linear}})
optim_wrapper = dict(optimizer=dict(lr=3e-5))  # of BERT's own range
