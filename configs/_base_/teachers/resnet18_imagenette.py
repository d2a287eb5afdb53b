# what configs/resnet18_real_imagenette.py leaves; any other classifier of the same ten classes will do
teacher = dict(
    config='configs/resnet18_real_imagenette.py', checkpoint='work_dirs/resnet18_real_imagenette/latest.pth')
