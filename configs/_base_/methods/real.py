# The real-valued twin: plain convolutions, no balance parameter.
binary_conv = dict(type='Conv2d')
custom_hooks = [
    dict(type='EpochSeedHook'),
    dict(type='FiniteLossHook')]
