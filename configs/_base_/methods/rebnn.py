# ReBNN: gamma from the gradient, as the paper has it (B.3.150). custom_hooks.0.magnitude=weight takes the largest latent weight.
binary_conv = dict(type='ReBNNConv2d')
binary_linear = dict(type='ReBNNLinear')
custom_hooks = [dict(type='BalanceHook', magnitude='gradient'), dict(type='OscillationHook')]
