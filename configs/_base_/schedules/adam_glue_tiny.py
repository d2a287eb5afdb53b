# For BERT-tiny from random weights: 1e-3 was better than 3e-4 after an epoch of SST-2, for the real-valued twin and for ReBNN.
_base_ = ['./adam_glue.py']
train_cfg = dict(max_epochs=5)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
