# ReCU: standardised, clamped weights; ReCUHook moves the clamp's quantile from 0.85 to 0.99.
binary_conv = dict(type='ReCUConv2d')
custom_hooks = [
    dict(type='ReCUHook'),
    dict(type='OscillationHook'),
    dict(type='EpochSeedHook'),
    dict(type='FiniteLossHook')]
