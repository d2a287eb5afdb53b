# XNOR-Net: the scale is the mean of |w|.
binary_conv = dict(type='XNORConv2d')
binary_linear = dict(type='XNORLinear')
custom_hooks = [dict(type='OscillationHook')]
