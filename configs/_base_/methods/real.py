# The real-valued twin has no balance parameter.
custom_hooks = [
    dict(type='EpochSeedHook'),
    dict(type='FiniteLossHook')]
