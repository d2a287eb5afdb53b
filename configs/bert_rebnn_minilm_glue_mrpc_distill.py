# python tools/train.py configs/bert_rebnn_minilm_glue_mrpc_distill.py
# 1-bit MiniLM on GLUE MRPC, taught by its real-valued twin, from whose weights it starts. After three epochs it
# still names one class (74.8); in two stages it has 75.0, see "MRPC from pretrained weights" in docs/results.md.
_base_ = [
    './_base_/models/bert_minilm.py',
    './_base_/datasets/glue_mrpc.py',
    './_base_/schedules/adam_glue.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/glue.py',
    './_base_/teachers/bert_minilm_mrpc.py',
]
model = dict(
    type='DistilledBertClassifier',
    task='mrpc',
    binary_linear={{_base_.binary_linear}},
    teacher={{_base_.teacher}})
train_cfg = dict(max_epochs=5)
load_from = 'work_dirs/bert_real_minilm_glue_mrpc/latest.pth'
