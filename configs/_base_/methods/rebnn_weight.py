# ReBNN with gamma from the largest latent weight, for BERT: level with the gradient there. In short trainings of convolutions it damps flips
# to a quarter and costs accuracy, see "rules of gamma" in docs/results.md.
binary_conv = dict(type='ReBNNConv2d')
binary_linear = dict(type='ReBNNLinear')
custom_hooks = [dict(type='BalanceHook', magnitude='weight'), dict(type='OscillationHook')]
