# python tools/train.py configs/bert_rebnn_base_glue_mnli.py
# bert_rebnn_base_glue_rte.py on GLUE MNLI, matched (accuracy). Expected score: not yet measured.
_base_ = ['./bert_rebnn_base_glue_rte.py']
task = 'mnli'
model = dict(task=task)
train_dataloader = dict(dataset=dict(task=task))
val_dataloader = dict(dataset=dict(task=task))
test_dataloader = dict(dataset=dict(task=task))
