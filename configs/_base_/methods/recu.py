# ReCU: standardised, clamped weights; ReCUHook moves the clamp's quantile from 0.85 to 0.99.
binary_conv = dict(type='ReCUConv2d')
binary_linear = dict(type='ReCULinear')
custom_hooks = [dict(type='ReCUHook'), dict(type='OscillationHook')]
