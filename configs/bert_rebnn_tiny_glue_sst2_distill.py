# python tools/train.py configs/bert_rebnn_tiny_glue_sst2_distill.py
# bert_rebnn_tiny_glue_sst2.py, taught by its real-valued twin. Accuracy 79.8 after one epoch.
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/teachers/bert_tiny.py',
    './_base_/datasets/glue_sst2.py',
    './_base_/schedules/adam_glue_tiny.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
model = dict(
    type='DistilledBertClassifier',
    teacher={{_base_.teacher}},
    task='sst2',
    binary_linear={{_base_.binary_linear}})
