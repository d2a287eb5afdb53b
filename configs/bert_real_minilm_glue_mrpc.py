# python tools/train.py configs/bert_real_minilm_glue_mrpc.py --cfg-options model.pretrained=FOLDER
# MiniLM fine-tuned on GLUE MRPC, the teacher of bert_rebnn_minilm_glue_mrpc_distill.py. FOLDER holds its weights as
# transformers saves them. 78.0 after two epochs.
_base_ = [
    './_base_/models/bert_minilm.py',
    './_base_/datasets/glue_mrpc.py',
    './_base_/schedules/adam_glue.py',
    './_base_/methods/real.py',
    './_base_/runtime/glue.py',
]
model = dict(task='mrpc', binary_linear={{_base_.binary_linear}})
train_cfg = dict(max_epochs=3)
optim_wrapper = dict(optimizer=dict(lr=5e-5))  # of BERT's own range
