# what configs/bert_real_base_glue_rte.py leaves
teacher = dict(config='configs/bert_real_base_glue_rte.py', checkpoint='work_dirs/bert_real_base_glue_rte/latest.pth')
