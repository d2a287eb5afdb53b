"""GLUE for 1-bit BERT: its tasks, files, data set, metrics and table, on torch and mmengine.

The network is in :mod:`rebnn_mm.integrations.bert`, the module that imports transformers. Importing this package
registers ``GlueDataset``, ``pad_collate`` and ``GlueMetric``; the tokenizer and scipy are imported when they are used.
"""

from rebnn_mm.bert.attention import BinarySelfAttention
from rebnn_mm.bert.collate import pad_collate
from rebnn_mm.bert.dataset import GlueDataset
from rebnn_mm.bert.files import Example, read_examples
from rebnn_mm.bert.metric import GlueMetric
from rebnn_mm.bert.tasks import TASKS, GlueTask, find_task

__all__ = [
    "TASKS",
    "BinarySelfAttention",
    "Example",
    "GlueDataset",
    "GlueMetric",
    "GlueTask",
    "find_task",
    "pad_collate",
    "read_examples",
]
