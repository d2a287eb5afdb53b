# Bi-Real Net: polynomial estimator, magnitude-aware weight gradient.
binary_conv = dict(type='BiRealConv2d')
binary_linear = dict(type='BiRealLinear')
custom_hooks = [dict(type='OscillationHook')]
