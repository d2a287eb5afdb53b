"""A 1-bit BERT and its teacher: the losses' parts, what is saved, which teachers are refused."""

import pytest
import torch
from torch.nn import functional

pytest.importorskip("transformers")

from mmengine.registry import MODELS, init_default_scope

from rebnn_mm.distill import feature_loss, similarity_loss
from rebnn_mm.integrations.bert import BertClassifier, token_noise
from rebnn_mm.integrations.bert.distill import DistilledBertClassifier

SMALL = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
PARTS = dict(logit_weight=0.0, hidden_weight=0.0, attention_weight=0.0)
TARGETS = dict(index=[0, 1], labels=torch.tensor([1, 0]))


@pytest.fixture
def teacher(tmp_path):
    """The config entry of a real-valued twin with random weights."""
    init_default_scope("mmengine")
    torch.manual_seed(1)
    config = dict(type="BertClassifier", task="rte", bert=SMALL, binary_linear=dict(type="Linear"))
    torch.save(MODELS.build(config).state_dict(), tmp_path / "t.pth")
    return dict(config=config, checkpoint=str(tmp_path / "t.pth"))


def student(teacher, task="rte", bert=SMALL, **options):
    torch.manual_seed(0)
    no_dropout = {**bert, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return DistilledBertClassifier(task, no_dropout, dict(type="ReBNNLinear"), teacher=teacher, **options).train()


def batch():
    return token_noise(dict(bert=SMALL), (7, 4))


def test_parts_are_what_they_say(teacher):
    model = student(teacher, hidden_weight=0.5, attention_weight=2.0, label_weight=0.25)
    losses = model(batch(), TARGETS, mode="loss")
    assert list(losses) == ["loss_logits", "loss_hidden", "loss_attention", "loss_cls"]
    order = [batch()[name] for name in ("input_ids", "token_type_ids", "attention_mask")]
    mine, other, mask = model.observe(*order), model.teacher.module.observe(*order), order[2]
    soft = functional.cross_entropy(mine.logits, other.logits.softmax(-1))
    torch.testing.assert_close(losses["loss_logits"], soft)
    hidden = feature_loss(mine.hidden, other.hidden, dim=-1, mask=mask)
    torch.testing.assert_close(losses["loss_hidden"], 0.5 * hidden)
    parts = [similarity_loss(getattr(mine, n), getattr(other, n), 2, mask) for n in ("queries", "keys", "values")]
    torch.testing.assert_close(losses["loss_attention"], 2 * sum(parts))
    torch.testing.assert_close(losses["loss_cls"], 0.25 * functional.cross_entropy(mine.logits, TARGETS["labels"]))
    assert len(mine.hidden) == 3 and len(mine.keys) == 2 and mine.keys[0].shape == (2, 7, 16)


def test_each_part_alone_teaches_the_encoder_and_never_the_teacher(teacher):
    for name in PARTS:
        model = student(teacher, **{**PARTS, name: 1.0})
        model.init_weights()
        losses = model(batch(), TARGETS, mode="loss")
        assert len(losses) == 1
        sum(losses.values()).backward()
        assert model.net.bert.encoder.layer[0].attention.self.value.weight.grad is not None, name
        assert all(p.grad is None for p in model.teacher.module.parameters())


def test_a_student_equal_to_its_teacher_loses_nothing_but_entropy(teacher):
    model = student(teacher)
    twin = model.teacher.module
    states = twin.observe(*(batch()[name] for name in ("input_ids", "token_type_ids", "attention_mask")))
    mask = batch()["attention_mask"]
    assert float(model._hidden(states, states, mask)) == 0 and float(model._attention(states, states, mask)) == 0


def test_checkpoints_hold_the_student_alone(teacher):
    model = student(teacher)
    model.init_weights()
    plain = BertClassifier("rte", SMALL, dict(type="ReBNNLinear"))
    plain.load_state_dict(model.state_dict())
    assert not any(name.startswith("teacher") for name in model.state_dict())


def test_hooks_are_gone_after_a_look(teacher):
    model = student(teacher)
    model(batch(), TARGETS, mode="loss")
    assert not any(m._forward_hooks for m in (*model.modules(), *model.teacher.module.modules()))


def test_refusals(teacher, tmp_path):
    with pytest.raises(ValueError, match="the teacher is for rte, the student for sst2"):
        student(teacher, task="sst2").init_weights()
    with pytest.raises(ValueError, match="are all 0, and one must be > 0"):
        student(teacher, **PARTS)
    for option in ("logit_weight", "label_weight", "temperature"):
        for value in (-1, float("nan"), "1"):
            with pytest.raises(ValueError, match=f"{option}=.* must be a finite number"):
                student(teacher, **{option: value})
    with pytest.raises(ValueError, match="3 levels of the student|2 levels of the student"):
        student(teacher, bert={**SMALL, "num_hidden_layers": 1})(batch(), TARGETS, mode="loss")
    with pytest.raises(FileNotFoundError, match="the teacher's checkpoint"):
        student(dict(teacher, checkpoint=str(tmp_path / "no.pth"))).init_weights()
