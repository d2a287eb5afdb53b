# ImageNet in WebDataset shards: train/*.tar and val/*.tar, from tools/make_shards.py or another writer of .jpg and .cls.
_base_ = ['./imagenet.py']
data_root = 'data/imagenet_shards'
train_dataloader = dict(dataset=dict(type='ShardedImages', data_root=data_root))
val_dataloader = dict(dataset=dict(type='ShardedImages', data_root=data_root))
test_dataloader = val_dataloader
