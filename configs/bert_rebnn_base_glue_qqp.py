# python tools/train.py configs/bert_rebnn_base_glue_qqp.py
# bert_rebnn_base_glue_rte.py on GLUE QQP (accuracy and F1). Expected score: not yet measured.
_base_ = ['./bert_rebnn_base_glue_rte.py']
task = 'qqp'
model = dict(task=task)
train_dataloader = dict(dataset=dict(task=task))
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = dict(dataset=dict(task=task))
