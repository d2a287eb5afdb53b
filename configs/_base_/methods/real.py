# The real-valued twin: plain convolutions, no balance parameter.
binary_conv = dict(type='Conv2d')
binary_linear = dict(type='Linear')
custom_hooks = []
