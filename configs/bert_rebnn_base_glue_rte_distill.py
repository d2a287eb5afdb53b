# python tools/train.py configs/bert_rebnn_base_glue_rte_distill.py
# bert_rebnn_base_glue_rte.py, taught by its real-valued twin, from whose weights it starts.
# Expected accuracy: not yet measured.
_base_ = ['./bert_rebnn_base_glue_rte.py', './_base_/teachers/bert_base_rte.py']
model = dict(type='DistilledBertClassifier', teacher={{_base_.teacher}})
load_from = 'work_dirs/bert_real_base_glue_rte/latest.pth'
