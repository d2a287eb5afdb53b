"""Token ids of singles and pairs, the cache, and padded batches."""

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")

from rebnn_mm.bert import GlueDataset, pad_collate


def dataset(glue, task="rte", **options):
    return GlueDataset(task, str(glue), str(glue / "vocab.txt"), **options)


def tokens(glue, ids):
    vocab = (glue / "vocab.txt").read_text().split("\n")
    return " ".join(vocab[i] for i in ids)


def test_a_pair_and_a_single(glue):
    pair = dataset(glue, split="dev")[1]
    assert tokens(glue, pair["input_ids"]) == "[CLS] the dog was good . [SEP] the cat was bad . [SEP]"
    assert pair["token_type_ids"].tolist() == [0] * 7 + [1] * 6
    assert pair["label"] == 1 and pair["index"] == 1
    single = dataset(glue, "cola", split="dev")[0]
    assert tokens(glue, single["input_ids"]) == "[CLS] the cat was not good . [SEP]"
    assert single["token_type_ids"].tolist() == [0] * 8
    assert dataset(glue, "cola", split="test")[0]["label"] is None


def test_the_longer_text_is_cut(glue, tmp_path):
    (tmp_path / "RTE").mkdir()
    text = "index\tsentence1\tsentence2\tlabel\n0\tthe cat sat on the mat .\tit ran\tentailment\n"
    (tmp_path / "RTE" / "train.tsv").write_text(text)
    data = GlueDataset("rte", str(tmp_path), str(glue / "vocab.txt"), max_length=9)
    assert tokens(glue, data[0]["input_ids"]) == "[CLS] the cat sat on [SEP] it ran [SEP]"


def test_metainfo_needs_no_file(tmp_path):
    data = GlueDataset("mnli", str(tmp_path), str(tmp_path / "none"), split="dev", lazy_init=True)
    assert data.metainfo == dict(task="mnli", split="dev_matched", classes=("contradiction", "entailment", "neutral"))
    with pytest.raises(FileNotFoundError):
        len(data)


def test_cached_ids_are_the_tokenizers(glue, tmp_path, monkeypatch):
    first = dataset(glue, cache_dir=str(tmp_path))
    (file,) = tmp_path.glob("rte_train_*.npz")

    def never(*args):
        raise AssertionError("tokenised again")

    monkeypatch.setattr("rebnn_mm.bert.dataset.encode", never)
    again = dataset(glue, cache_dir=str(tmp_path))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["input_ids"], b["input_ids"]) and torch.equal(a["token_type_ids"], b["token_type_ids"])
    for options in (dict(max_length=10), dict(lowercase=False), dict(indices=3), dict(split="dev")):
        with pytest.raises(AssertionError, match="tokenised again"):
            dataset(glue, cache_dir=str(tmp_path), **options)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(AssertionError, match="tokenised again"):
        dataset(glue, cache_dir=str(tmp_path))
    np.savez(file, ids=np.arange(3), lengths=np.array([3]), seconds=np.array([3]))
    with pytest.raises(AssertionError, match="tokenised again"):
        dataset(glue, cache_dir=str(tmp_path))


def test_a_batch_is_padded_to_its_longest(glue):
    data = dataset(glue, "sst2", split="dev")
    batch = pad_collate([data[0], data[1]], pad_id=9)
    assert batch["inputs"]["input_ids"].shape == (2, 8)
    assert batch["inputs"]["input_ids"][1, -1] == 9
    assert batch["inputs"]["attention_mask"].tolist() == [[1] * 8, [1] * 7 + [0]]
    assert batch["data_samples"]["labels"].tolist() == [0, 1] and batch["data_samples"]["index"] == [0, 1]
    assert "labels" not in pad_collate([dataset(glue, "sst2", split="test")[0]])["data_samples"]


def test_what_a_user_may_get_wrong(glue, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt.*--cfg-options vocab_file=FILE"):
        GlueDataset("rte", str(glue), str(tmp_path / "none.txt"))
    (tmp_path / "v.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        GlueDataset("rte", str(glue), str(tmp_path / "v.txt"))
    with pytest.raises(ValueError, match="max_length=3"):
        dataset(glue, max_length=3)
    with pytest.raises(ValueError, match="indices=0"):
        dataset(glue, indices=0)
    with pytest.raises(ValueError, match="malformed='drop'"):
        dataset(glue, malformed="drop")
