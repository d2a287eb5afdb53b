# SST-2 of glue.py: 67,349 short phrases, hence the larger batch.
_base_ = ['./glue.py']
task = 'sst2'
train_dataloader = dict(batch_size=64, dataset=dict(task=task))
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = dict(dataset=dict(task=task))
