# GLUE's tsv files as published: data_root/RTE/train.tsv, ..., and BERT's vocabulary as data_root/vocab.txt.
# Another task: --cfg-options task=mrpc, or a config as bert_rebnn_base_glue_mrpc.py.
default_scope = 'mmengine'
custom_imports = dict(
    imports=['rebnn_mm', 'rebnn_mm.bert', 'rebnn_mm.integrations.bert'],
    allow_failed_imports=False)

task = 'rte'
data_root = 'data/glue'
vocab_file = 'data/glue/vocab.txt'

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    worker_init_fn=dict(type='seed_worker'),
    collate_fn=dict(type='pad_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='GlueDataset',
        task=task,
        data_root=data_root,
        vocab_file=vocab_file,
        split='train',
        max_length=128,
        cache_dir='work_dirs/glue_tokens'))
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    collate_fn=dict(type='pad_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='GlueDataset',
        task=task,
        data_root=data_root,
        vocab_file=vocab_file,
        split='dev',
        max_length=128,
        cache_dir='work_dirs/glue_tokens'))
test_dataloader = val_dataloader
val_evaluator = dict(type='GlueMetric')
test_evaluator = val_evaluator
auto_scale_lr = dict(enable=False, base_batch_size=16)
