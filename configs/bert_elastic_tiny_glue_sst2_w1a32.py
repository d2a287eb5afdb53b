# python tools/train.py configs/bert_elastic_tiny_glue_sst2_w1a32.py, or both by tools/train_stages.py
# First of BiT's chain: weights 1-bit, inputs real-valued, taught by the real-valued twin, from whose weights it starts.
# ReLU in place of GELU: what stands behind it is 0 or alpha in stage two.
# Accuracy 81.5 and 82.6 after one epoch (two seeds).
_base_ = [
    './_base_/models/bert_tiny.py',
    './_base_/teachers/bert_tiny.py',
    './_base_/datasets/glue_sst2.py',
    './_base_/schedules/adam_glue_tiny.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
model = dict(
    type='DistilledBertClassifier',
    level='1-32',
    bert=dict(hidden_act='relu'),
    attention_weight=0.0,
    teacher={{_base_.teacher}},
    task='sst2',
    binary_linear={{_base_.binary_linear}})
load_from = 'work_dirs/bert_real_tiny_glue_sst2/latest.pth'
