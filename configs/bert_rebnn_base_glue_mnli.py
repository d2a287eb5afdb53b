# python tools/train.py configs/bert_rebnn_base_glue_mnli.py
# bert_rebnn_base_glue_rte.py on GLUE MNLI, matched (accuracy). Expected score: not yet measured.
_base_ = [
    './_base_/models/bert_base.py',
    './_base_/datasets/glue.py',
    './_base_/schedules/adam_glue.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
task = 'mnli'
model = dict(task=task, binary_linear={{_base_.binary_linear}})
train_dataloader = dict(dataset=dict(task=task))
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = dict(dataset=dict(task=task))
