"""BERT of transformers as a model of mmengine, with 1-bit linear layers: the only module that imports transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from rebnn_mm.bert import BinarySelfAttention, find_task
from rebnn_mm.convert import binarize
from rebnn_mm.errors import UserError
from rebnn_mm.estimators import ElasticSTE

Inputs = dict[str, Tensor]

# in the order in which transformers' BERT takes them
NET_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# bits of weights, of the linear layers' inputs, and of what attention multiplies -> options of the 1-bit layers
LEVELS: dict[str, dict[str, Any]] = {"1-32": dict(weight_only=True), "1-1": {}, "1-1-1": {}}
# what a folder's weights must agree in with the config
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size", "hidden_act"),
)


@dataclass(frozen=True)
class BertStates:
    """What distillation compares.

    Attributes:
        logits: (N, outputs).
        hidden: The embeddings' output and each layer's, (N, L, C).
        queries, keys, values: Of each layer, (N, L, C), before any sign.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@MODELS.register_module()
class BertClassifier(BaseModel):
    """BERT with a classifier for a GLUE task, its encoder's linear layers 1-bit.

    Embeddings, layer norms, pooler and classifier stay real-valued. Names in checkpoints are transformers' own behind
    ``net.``, with ``alpha`` and ``gamma`` beside a 1-bit weight: a real-valued checkpoint loads into every level.

    Args:
        task: Name of the GLUE task, which sets outputs and loss: cross entropy, or the squared error of a regression.
        bert: Sizes and rates, as for transformers' ``BertConfig``: ``hidden_size``, ``num_hidden_layers``, ...
        binary_linear: The 1-bit layer and its options: ``dict(type='ReBNNLinear')``, or another method's;
            ``input_norm='layer'`` and ``shortcut=True`` are those of :class:`rebnn_mm.layers.BinaryLinear`.
            ``dict(type='Linear')`` leaves everything real-valued, whatever the level: the twin.
        level: ``'1-32'``, weights 1-bit; ``'1-1'``, weights and inputs of the linear layers; ``'1-1-1'``, attention
            too, by :class:`rebnn_mm.bert.BinarySelfAttention`.
        elastic: Give every 1-bit input BiT's learned scale and threshold, :class:`rebnn_mm.estimators.ElasticSTE`, at
            levels ``'1-1'`` and ``'1-1-1'``. Two values from 0 up have attention weights, which keep their softmax,
            and, with ``bert.hidden_act='relu'`` as in the paper, what is behind the activation.
        pretrained: Real-valued weights to start training from: a folder that transformers saved, or a name on its hub,
            which is then downloaded. None starts from random ones. Read when training starts.
        data_preprocessor: As for mmengine's ``BaseModel``.

    Raises:
        ValueError: An unknown task or level, sizes that transformers refuses, an option that the layer does not have.
    """

    def __init__(
        self,
        task: str,
        bert: dict[str, Any],
        binary_linear: dict[str, Any],
        level: str = "1-1-1",
        elastic: bool = False,
        pretrained: str | None = None,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        if level not in LEVELS:
            raise UserError(f"BertClassifier: level={level!r} is not one of {', '.join(LEVELS)}")
        self.task = find_task(task)
        self.pretrained = pretrained
        # eager: the other implementations of attention give no scores, and their sums depend on the padding
        self.bert_config = BertConfig(**bert, num_labels=self.task.outputs, attn_implementation="eager")
        self.net = BertForSequenceClassification(self.bert_config)
        if binary_linear["type"] != "Linear":
            options = {**LEVELS[level], **binary_linear}
            elastic = elastic and level != "1-32"
            if elastic:
                options["estimator"] = dict(type="ElasticSTE")
            binarize(self.net, include="bert.encoder", types="Linear", layer=options, input_norm=False)
            if elastic and self.bert_config.hidden_act == "relu":
                for layer in self.net.bert.encoder.layer:
                    layer.output.dense.estimator = ElasticSTE(unsigned=True)
            if level == "1-1-1":
                _binarize_attention(self.net, "elastic" if elastic else "binary")

    def init_weights(self) -> None:
        """Read the weights of ``pretrained``; without one they are as transformers initialised them.

        Raises:
            ValueError: They cannot be read, or are of another size.
        """
        if self.pretrained is None:
            return
        source = _read_pretrained(self.pretrained, self.bert_config)
        missing, unexpected = self.net.load_state_dict(source.state_dict(), strict=False)
        own = [name for name in missing if not (name.endswith(("alpha", "beta", "gamma")) or ".input_norm." in name)]
        if own or unexpected:
            raise UserError(f"pretrained={self.pretrained!r} lacks {own[:3]}, and has {unexpected[:3]} in excess")
        print_log(f"weights start from {self.pretrained}", "current")

    def forward(self, inputs: Inputs, data_samples: dict[str, Any] | None = None, mode: str = "tensor") -> Any:
        """Batch of :func:`rebnn_mm.bert.pad_collate` -> logits, losses or predictions.

        Args:
            inputs: ``input_ids``, ``token_type_ids`` and ``attention_mask``, (N, L) each.
            data_samples: ``index`` and ``labels``.
            mode: ``'tensor'``: (N, outputs). ``'loss'``: a dict. ``'predict'``: one dict a row, of ``index``,
                ``logits``, ``prediction`` and ``label``.
        """
        if mode == "loss":
            return self.loss(inputs, data_samples or {})
        logits = self.logits(inputs)
        return logits if mode == "tensor" else self._predictions(logits, data_samples or {})

    def loss(self, inputs: Inputs, data_samples: dict[str, Any]) -> dict[str, Tensor]:
        """``loss_cls``, on the labels."""
        return dict(loss_cls=self.label_loss(self.logits(inputs), data_samples))

    def logits(self, inputs: Inputs) -> Tensor:
        """(N, outputs); the net is transformers', or a packed one that returns them as they are."""
        output = self.net(*(inputs[name] for name in NET_INPUTS))
        return output if isinstance(output, Tensor) else output.logits

    def label_loss(self, logits: Tensor, data_samples: dict[str, Any]) -> Tensor:
        """Cross entropy of (N, outputs) against the labels, or their squared error.

        Raises:
            ValueError: The split has no labels.
        """
        if "labels" not in data_samples:
            raise UserError("no labels to train on: a test split has none, take split='train'")
        labels = data_samples["labels"]
        if self.task.is_regression:
            return functional.mse_loss(logits.squeeze(-1).float(), labels.float())
        return functional.cross_entropy(logits, labels)

    def observe(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> BertStates:
        """Logits and inner states of a batch, (N, L) each."""
        names = ("query", "key", "value")
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        handles = [
            getattr(layer.attention.self, name).register_forward_hook(
                lambda module, args, output, name=name: found[name].append(output)
            )
            for layer in self.net.bert.encoder.layer
            for name in names
        ]
        try:
            output = self.net(input_ids, attention_mask, token_type_ids, output_hidden_states=True)
        finally:
            for handle in handles:
                handle.remove()
        return BertStates(output.logits, tuple(output.hidden_states), *(tuple(found[name]) for name in names))

    def _predictions(self, logits: Tensor, data_samples: dict[str, Any]) -> list[dict[str, Any]]:
        chosen = logits.squeeze(-1) if self.task.is_regression else logits.argmax(dim=-1)
        labels = data_samples.get("labels")
        known = [None] * len(logits) if labels is None else labels.tolist()
        index = data_samples.get("index") or range(len(logits))
        rows = zip(index, logits.detach().cpu(), chosen.tolist(), known, strict=True)
        return [dict(index=i, logits=row, prediction=p, label=label) for i, row, p, label in rows]


def token_noise(model_cfg: dict[str, Any], lengths: tuple[int, ...]) -> Inputs:
    """A batch of random tokens, always the same, with sequences of ``lengths``, padded to the longest."""
    config = BertConfig(**model_cfg["bert"])
    longest = max(lengths)
    if min(lengths) < 1 or longest > config.max_position_embeddings:
        raise UserError(f"lengths {lengths}: the model takes 1 to {config.max_position_embeddings} tokens")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (len(lengths), longest), generator=generator)
    place = torch.arange(longest).expand_as(ids)
    mask = (place < torch.tensor(lengths)[:, None]).long()
    types = (place >= longest // 2).long()
    return dict(input_ids=ids * mask, token_type_ids=types * mask, attention_mask=mask)


def _binarize_attention(net: nn.Module, scores: str) -> None:
    for layer in net.bert.encoder.layer:
        old = layer.attention.self
        layer.attention.self = BinarySelfAttention(
            old.query, old.key, old.value, old.num_attention_heads, old.dropout.p, scores
        )


def _read_pretrained(source: str, config: BertConfig) -> nn.Module:
    local = Path(source).is_dir()
    advice = "give a folder that transformers saved (config.json, model.safetensors), or a name on its hub"
    if local and not (Path(source) / "config.json").is_file():  # transformers would take BERT-base's sizes
        raise UserError(f"pretrained={source!r} has no config.json: {advice}")
    try:
        theirs = BertConfig.from_pretrained(source, local_files_only=local)
        differing = [key for key in _SIZES if getattr(theirs, key) != getattr(config, key)]
        if not differing:
            options: dict[str, Any] = dict(num_labels=config.num_labels, ignore_mismatched_sizes=True)
            return BertForSequenceClassification.from_pretrained(source, local_files_only=local, **options)
    except (OSError, RuntimeError) as error:
        line = next(line for line in str(error).splitlines() if line.strip())
        raise UserError(f"pretrained={source!r} cannot be read: {line[:200]}; {advice}") from None
    said = ", ".join(f"{key}={getattr(theirs, key)} (the config has {getattr(config, key)})" for key in differing)
    raise UserError(f"pretrained={source!r} is of another size: {said}; set it under model.bert")
