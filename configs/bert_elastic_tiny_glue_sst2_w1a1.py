# python tools/train.py configs/bert_elastic_tiny_glue_sst2_w1a1.py, or both by tools/train_stages.py
# Last of BiT's chain: all 1-bit with elastic activations, taught by stage one. Accuracy 78.6 and 80.4 after one epoch
# (two seeds).
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/datasets/glue_sst2.py',
    './_base_/schedules/adam_glue_tiny.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
model = dict(
    type='DistilledBertClassifier',
    elastic=True,
    bert=dict(hidden_act='relu'),
    attention_weight=0.0,
    teacher=dict(
        config='configs/bert_elastic_tiny_glue_sst2_w1a32.py',
        checkpoint='work_dirs/bert_elastic_tiny_glue_sst2_w1a32/latest.pth'),
    task='sst2',
    binary_linear={{_base_.binary_linear}})
load_from = 'work_dirs/bert_elastic_tiny_glue_sst2_w1a32/latest.pth'
