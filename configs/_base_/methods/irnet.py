# IR-Net: standardised weights; EDEHook sharpens the estimator from the start of training to its end.
binary_conv = dict(type='IRNetConv2d')
binary_linear = dict(type='IRNetLinear')
custom_hooks = [dict(type='EDEHook'), dict(type='OscillationHook')]
