# python tools/train.py configs/bert_react_tiny_glue_sst2.py
# bert_rebnn_tiny_glue_sst2.py with ReActNet's layer, what ReBNN builds on. Accuracy 78.2 after one epoch.
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/datasets/glue_sst2.py',
    './_base_/schedules/adam_glue_tiny.py',
    './_base_/methods/react.py',
    './_base_/runtime/glue.py',
]
model = dict(task='sst2', binary_linear={{_base_.binary_linear}})
