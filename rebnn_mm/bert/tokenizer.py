"""BERT's WordPiece tokenizer over a local vocabulary file, by the ``tokenizers`` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rebnn_mm.checks import check_whole
from rebnn_mm.errors import MissingFileError, MissingPackageError, UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def build_tokenizer(vocab_file: str | Path, max_length: int, lowercase: bool = True) -> Any:
    """Tokenizer whose ``encode_batch`` gives ``[CLS] a [SEP]`` or ``[CLS] a [SEP] b [SEP]``, at most ``max_length``.

    A longer pair loses tokens of its longer text first, as in BERT's own code.

    Raises:
        FileNotFoundError: No vocabulary file.
        ValueError: It lacks BERT's special tokens, or ``max_length`` leaves no room for text.
        ImportError: The library is not installed.
    """
    path = Path(vocab_file)
    if not path.is_file():
        raise MissingFileError(
            f"no vocabulary {path} (looked at {path.absolute()}): put BERT's vocab.txt there, one token a line, or "
            "name it with --cfg-options vocab_file=FILE; a folder saved by transformers holds one"
        )
    check_whole("max_length", max_length, least=8, hint=": a pair with its special tokens needs as many")
    try:
        from tokenizers.implementations import BertWordPieceTokenizer
        from tokenizers.models import WordPiece
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{error}: GLUE needs it, pip install rebnn_mm[bert]") from None
    tokens = path.read_text(encoding="utf-8").split("\n")
    missing = [token for token in SPECIAL if token not in tokens]
    if missing:
        raise UserError(f"vocabulary {path} lacks {', '.join(missing)}: give the vocab.txt of a BERT")
    tokenizer = BertWordPieceTokenizer(WordPiece.read_file(str(path)), lowercase=lowercase)
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[tuple[str, ...]]) -> tuple[list[list[int]], list[int]]:
    """Ids of each row, and where its second text begins (its length, for a single text)."""
    encoded = tokenizer.encode_batch([row if len(row) == 2 else row[0] for row in texts])
    seconds = [row.type_ids.index(1) if 1 in row.type_ids else len(row.ids) for row in encoded]
    return [row.ids for row in encoded], seconds
