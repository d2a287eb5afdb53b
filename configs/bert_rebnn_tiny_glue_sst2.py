# python tools/train.py configs/bert_rebnn_tiny_glue_sst2.py
# bert_rebnn_tiny_glue_rte.py on GLUE SST-2 (accuracy). Expected score: not yet measured.
_base_ = ['./bert_rebnn_tiny_glue_rte.py']
task = 'sst2'
model = dict(task=task)
train_dataloader = dict(dataset=dict(task=task))
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = dict(dataset=dict(task=task))
