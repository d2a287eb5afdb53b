# BERT-tiny from random weights: real-valued, ReBNN, plain signs and ReActNet's layer, with labels; two of them with a teacher, too.
# The teacher is real/seed0; the students come after it.
metric = 'glue/score'
baseline = 'sign'
seeds = [0, 1, 2]
_taught = {'model.teacher.checkpoint': '{out}/real/seed0/latest.pth'}
entries = dict(
    real=dict(config='../bert_real_tiny_glue_sst2.py'),
    rebnn=dict(config='../bert_rebnn_tiny_glue_sst2.py'),
    sign=dict(config='../bert_sign_tiny_glue_sst2.py'),
    react=dict(config='../bert_react_tiny_glue_sst2.py'),
    rebnn_distill=dict(config='../bert_rebnn_tiny_glue_sst2_distill.py', after='real/seed0', options=_taught),
    sign_distill=dict(config='../bert_sign_tiny_glue_sst2_distill.py', after='real/seed0', options=_taught),
)
