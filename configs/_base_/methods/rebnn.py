# magnitude='weight': gamma from the largest latent weight; 'gradient' is the paper's equation.
custom_hooks = [
    dict(type='BalanceHook', magnitude='weight'),
    dict(type='EpochSeedHook'),
    dict(type='FiniteLossHook')]
