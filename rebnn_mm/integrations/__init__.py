"""Adapters to mmcv, mmdet, mmpretrain and transformers, which nothing else imports; each library where it is used."""
