# python tools/compare.py configs/compare/imagenette_reactnet_a.py
# ReActNet-A on Imagenette at 96 pixels, from labels: ReBNN's layer, ReActNet's own, and the real-valued twin. On 1,000 images an epoch takes
# one core 50 s.
_base_ = ['./_base_/imagenette_96.py']
baseline = 'rebnn'
seeds = [0]
entries = dict(
    rebnn=dict(config='../reactnet_a_rebnn_imagenette.py'),
    real=dict(config='../reactnet_a_real_imagenette.py'),
    react=dict(config='../reactnet_a_react_imagenette.py'),
)
