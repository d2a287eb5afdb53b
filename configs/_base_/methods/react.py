# ReActNet: what ReBNN builds on, with an analytic scale and no balance parameter.
binary_conv = dict(type='ReActConv2d')
binary_linear = dict(type='ReActLinear')
custom_hooks = [dict(type='OscillationHook')]
