"""BERT of transformers as a model of mmengine, plain and distilled: the only package that imports transformers.

Importing it registers both.
"""

from rebnn_mm.integrations.bert.classifier import LEVELS, NET_INPUTS, BertClassifier, BertStates, Inputs, token_noise
from rebnn_mm.integrations.bert.distill import DistilledBertClassifier

__all__ = ["LEVELS", "NET_INPUTS", "BertClassifier", "BertStates", "DistilledBertClassifier", "Inputs", "token_noise"]
