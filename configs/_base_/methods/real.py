# The real-valued twin has no balance parameter.
binary_conv = dict(type='Conv2d')
custom_hooks = [
    dict(type='EpochSeedHook'),
    dict(type='FiniteLossHook')]
