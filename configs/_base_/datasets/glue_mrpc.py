# MRPC of glue.py
_base_ = ['./glue.py']
task = 'mrpc'
train_dataloader = dict(batch_size=32, dataset=dict(task=task))
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = dict(dataset=dict(task=task))
