# python tools/train.py configs/bert_real_tiny_glue_sst2.py
# real-valued twin of bert_rebnn_tiny_glue_sst2.py. Expected accuracy: not yet measured.
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/datasets/glue.py',
    './_base_/schedules/adam_glue.py',
    './_base_/methods/real.py',
    './_base_/runtime/glue.py',
]
task = 'sst2'
model = dict(task=task, binary_linear={{_base_.binary_linear}})
train_dataloader = dict(dataset=dict(task=task))
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = dict(dataset=dict(task=task))
