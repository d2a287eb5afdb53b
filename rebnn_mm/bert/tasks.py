"""The nine GLUE tasks (Wang et al., ICLR 2019): where their columns are, what they predict, how they are scored."""

from __future__ import annotations

from dataclasses import dataclass

from rebnn_mm.errors import UserError


@dataclass(frozen=True)
class GlueTask:
    """One task as GLUE publishes it.

    Attributes:
        name: As in configs, ``'rte'``.
        folder: Of its files, ``'RTE'``; also the name of its submission file.
        texts: Header names of its one or two text columns.
        label: Header name of the label column in the training and development files.
        classes: Labels as the files write them, in the order of the outputs; empty for a regression.
        metrics: What GLUE reports; the score is their mean.
        dev: Development splits, the first is what a training is validated on.
        test: Test splits, without labels.
        headless: The training and development files have no header: column numbers, in the order of ``texts``
            and then the label.
        torn_rows: The published training and development files have rows with fewer columns than the header (line
            breaks within a text) and rows with an empty text. The usual readers leave the first out and keep the
            second.
    """

    name: str
    folder: str
    texts: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    dev: tuple[str, ...] = ("dev",)
    test: tuple[str, ...] = ("test",)
    headless: tuple[int, ...] | None = None
    torn_rows: bool = False

    @property
    def outputs(self) -> int:
        """Outputs of a network for the task; a regression has one."""
        return len(self.classes) or 1

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number."""
        return not self.classes

    def submission(self, split: str) -> str:
        """File name that GLUE's server expects for the predictions on ``split``: ``'RTE.tsv'``, ``'MNLI-mm.tsv'``."""
        part = {"_matched": "-m", "_mismatched": "-mm"}.get(split.removeprefix("test").removeprefix("dev"), "")
        return f"{self.folder}{part}.tsv"


_YES_NO = ("0", "1")
_ENTAILS = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
_TWO = ("accuracy", "f1")

TASKS = {
    task.name: task
    for task in (
        GlueTask("cola", "CoLA", ("sentence",), "label", _YES_NO, ("matthews",), headless=(3, 1)),
        GlueTask("sst2", "SST-2", ("sentence",), "label", _YES_NO, ("accuracy",)),
        GlueTask("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", _YES_NO, _TWO),
        GlueTask("stsb", "STS-B", _PAIR, "score", (), ("pearson", "spearman")),
        GlueTask("qqp", "QQP", ("question1", "question2"), "is_duplicate", _YES_NO, _TWO, torn_rows=True),
        GlueTask(
            "mnli",
            "MNLI",
            _PAIR,
            "gold_label",
            ("contradiction", "entailment", "neutral"),
            ("accuracy",),
            dev=("dev_matched", "dev_mismatched"),
            test=("test_matched", "test_mismatched"),
        ),
        GlueTask("qnli", "QNLI", ("question", "sentence"), "label", _ENTAILS, ("accuracy",)),
        GlueTask("rte", "RTE", _PAIR, "label", _ENTAILS, ("accuracy",)),
        GlueTask("wnli", "WNLI", _PAIR, "label", _YES_NO, ("accuracy",)),
    )
}


def find_task(name: str) -> GlueTask:
    """The task ``name``.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in TASKS:
        raise UserError(f"task {name!r}: GLUE has {', '.join(TASKS)}")
    return TASKS[name]
