# python tools/train.py configs/bert_rebnn_base_glue_qqp.py
# bert_rebnn_base_glue_rte.py on GLUE QQP (accuracy and F1). Expected score: not yet measured.
_base_ = [
    './_base_/models/bert_base.py',
    './_base_/datasets/glue.py',
    './_base_/schedules/adam_glue.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
task = 'qqp'
model = dict(task=task, binary_linear={{_base_.binary_linear}})
train_dataloader = dict(dataset=dict(task=task))
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = dict(dataset=dict(task=task))
