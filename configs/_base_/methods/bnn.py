# The first binary network: signs without a scale.
binary_conv = dict(type='SignConv2d')
binary_linear = dict(type='SignLinear')
custom_hooks = [dict(type='OscillationHook')]
