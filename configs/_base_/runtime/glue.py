_base_ = ['./default.py']
default_hooks = dict(checkpoint=dict(save_best='glue/score', rule='greater'))
