# torchvision's real-valued ResNet-34 (73.3 % top-1), https://download.pytorch.org/models/resnet34-b627a593.pth;
# another classifier: teacher = dict(config='configs/mine.py', checkpoint='mine.pth')
teacher = dict(
    config=dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=34),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=512)),
    checkpoint='checkpoints/resnet34-b627a593.pth')
