# python tools/train.py configs/bert_sign_tiny_glue_sst2_distill.py
# bert_sign_tiny_glue_sst2.py, taught by its real-valued twin. Accuracy 50.0 after one epoch, chance.
_base_ = ['./bert_sign_tiny_glue_sst2.py', './_base_/teachers/bert_tiny.py']
model = dict(type='DistilledBertClassifier', teacher={{_base_.teacher}})
