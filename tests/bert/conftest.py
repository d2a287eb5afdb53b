"""GLUE folders in the published formats, with sentences of a few words and a vocabulary of them."""

import pytest

WORDS = "the a cat dog sat ran not good bad film was is it on mat we say ##s ' \" . , ! one two".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HEADERS = {
    "SST-2": ("sentence\tlabel", "index\tsentence"),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "index\t#1 ID\t#2 ID\t#1 String\t#2 String"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
}


def sentence(number):
    return f"the {('cat', 'dog')[number % 2]} was {('not good', 'good', 'bad')[number % 3]} ."


def rows(folder, count, labelled=True):
    """Lines of a split, with the label in the first word."""
    lines = []
    for n in range(count):
        first, second, bit = sentence(n), sentence(n + 1), n % 2
        lines.append(
            {
                "SST-2": f"{first}\t{bit}" if labelled else f"{n}\t{first}",
                "MRPC": f"{bit if labelled else n}\t7\t8\t{first}\t{second}",
                "RTE": f"{n}\t{first}\t{second}" + (f"\t{('entailment', 'not_entailment')[bit]}" if labelled else ""),
                "CoLA": f"gj04\t{bit}\t{'' if bit else '*'}\t{first}" if labelled else f"{n}\t{first}",
            }[folder]
        )
    return lines


def write_glue(root, train=12, dev=7, test=5):
    for folder in ("SST-2", "MRPC", "RTE", "CoLA"):
        (root / folder).mkdir(parents=True)
        with_labels, without = HEADERS.get(folder, (None, "index\tsentence"))
        for split, count in (("train", train), ("dev", dev), ("test", test)):
            labelled = split != "test"
            head = with_labels if labelled else without
            text = "\n".join(([head] if head else []) + rows(folder, count, labelled))
            mark = "\ufeff" if folder == "MRPC" and labelled else ""
            (root / folder / f"{split}.tsv").write_text(mark + text + "\n", encoding="utf-8")
    (root / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def glue(tmp_path_factory):
    """Root of a drawn GLUE: SST-2, MRPC with its byte order mark, RTE, and CoLA without header; do not write there."""
    return write_glue(tmp_path_factory.mktemp("glue"))
