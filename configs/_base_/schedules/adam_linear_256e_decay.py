# Stage one decays its real-valued weights: convolutions and shifts, as the authors of ReActNet do.
_base_ = ['./adam_linear_256e.py']
optim_wrapper = dict(
    optimizer=dict(weight_decay=1e-5),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, custom_keys={'head.fc': dict(decay_mult=0.0), '.prelu': dict(decay_mult=0.0)}))
