# python tools/train.py configs/bert_rebnn_base_glue_rte_distill.py
# bert_rebnn_base_glue_rte.py, taught by its real-valued twin, from whose weights it starts.
# Expected accuracy: not yet measured.
_base_ = [
    './_base_/models/bert_base.py',
    './_base_/teachers/bert_base_rte.py',
    './_base_/datasets/glue.py',
    './_base_/schedules/adam_glue.py',
    './_base_/methods/rebnn_weight.py',
    './_base_/runtime/glue.py',
]
model = dict(
    type='DistilledBertClassifier',
    teacher={{_base_.teacher}},
    task='rte',
    binary_linear={{_base_.binary_linear}})
load_from = 'work_dirs/bert_real_base_glue_rte/latest.pth'
