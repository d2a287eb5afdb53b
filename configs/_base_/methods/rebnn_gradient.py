# B.3.150 as the paper has it: gamma from the gradient.
binary_conv = dict(type='ReBNNConv2d')
binary_linear = dict(type='ReBNNLinear')
custom_hooks = [dict(type='BalanceHook', magnitude='gradient'), dict(type='OscillationHook')]
