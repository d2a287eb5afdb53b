# python tools/train.py configs/bert_real_tiny_glue_sst2.py
# real-valued twin of bert_rebnn_tiny_glue_sst2.py, and its teacher. Accuracy 82.1 after one epoch.
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/datasets/glue_sst2.py',
    './_base_/schedules/adam_glue_tiny.py',
    './_base_/methods/real.py',
    './_base_/runtime/glue.py',
]
model = dict(task='sst2', binary_linear={{_base_.binary_linear}})
