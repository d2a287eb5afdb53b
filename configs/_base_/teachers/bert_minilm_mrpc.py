# what configs/bert_real_minilm_glue_mrpc.py leaves
teacher = dict(
    config='configs/bert_real_minilm_glue_mrpc.py', checkpoint='work_dirs/bert_real_minilm_glue_mrpc/latest.pth')
