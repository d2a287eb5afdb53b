"""BERT at each level: what is 1-bit, where weights come from, what padding and packing leave alone."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from mmengine.registry import MODELS, init_default_scope
from torch import nn
from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification

from rebnn_mm.bert import BinarySelfAttention
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.deploy.graph.parts import Part
from rebnn_mm.estimators import ElasticSTE
from rebnn_mm.functional import scale_init, sign
from rebnn_mm.integrations.bert import NET_INPUTS, BertClassifier, token_noise
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.layers import binary_layers

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SMALL = dict(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
REBNN = dict(type="ReBNNLinear")
LEVELS = ("1-32", "1-1", "1-1-1")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    init_default_scope("mmengine")
    yield
    torch.set_num_threads(before)


def classifier(level="1-1-1", task="rte", layer=REBNN, **options):
    torch.manual_seed(0)
    return BertClassifier(task, SMALL, layer, level, **options)


def moved(model):
    """Biases and norms away from where they start, eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and not name.endswith("alpha"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def batch(lengths=(9, 4, 6)):
    return token_noise(dict(bert=SMALL), lengths)


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_binary_and_that_gradients_reach_it(level):
    model = classifier(level).train()
    layers = binary_layers(model)
    assert len(layers) == 2 * 6 and all(name.startswith("net.bert.encoder.layer.") for name in layers)
    assert {layer.binarizes_input for layer in layers.values()} == {level != "1-32"}
    assert sum(isinstance(m, BinarySelfAttention) for m in model.modules()) == (2 if level == "1-1-1" else 0)
    losses = model(batch(), dict(index=[0, 1, 2], labels=torch.tensor([0, 1, 1])), mode="loss")
    losses["loss_cls"].backward()
    for name, layer in layers.items():
        assert layer.alpha.grad.abs().sum() > 0 or "attention.self" in name and level == "1-1-1", name
        assert layer.weight.grad is not None, name


def test_the_real_twin_is_transformers_own():
    model = classifier(layer=dict(type="Linear")).eval()
    assert not binary_layers(model)
    own = BertForSequenceClassification(BertConfig(**SMALL, num_labels=2, attn_implementation="eager")).eval()
    own.load_state_dict(model.net.state_dict())
    assert torch.equal(model(batch()), own(**batch()).logits)


def test_level_one_is_the_twin_with_rounded_weights():
    model = moved(classifier("1-32"))
    twin = classifier(layer=dict(type="Linear")).eval()
    state = {k: v for k, v in model.state_dict().items() if not k.endswith(("alpha", "gamma"))}
    for name in binary_layers(model):
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = scale_init(weight) * sign(weight)
    twin.load_state_dict(state)
    torch.testing.assert_close(model(batch()), twin(batch()))


@pytest.mark.parametrize("method", ["Sign", "XNOR", "BiReal", "IRNet", "ReAct", "ReCU", "ReBNN"])
def test_any_methods_layer(method):
    layers = binary_layers(classifier(layer=dict(type=f"{method}Linear")))
    assert {type(layer).__name__ for layer in layers.values()} == {f"{method}Linear"} and len(layers) == 12


@pytest.mark.parametrize("level", [*LEVELS, "real"])
def test_padding_changes_nothing(level):
    layer = dict(type="Linear") if level == "real" else REBNN
    model = moved(classifier("1-1" if level == "real" else level, layer=layer))
    whole = batch()
    logits = model(whole)
    # other tokens in the padding, the same shape: the same bits
    padded = whole["attention_mask"] == 0
    other = {**whole, "input_ids": torch.where(padded, 39, whole["input_ids"])}
    assert torch.equal(model(other), logits)
    # other widths: sums of floats in another order
    for row, length in enumerate((9, 4, 6)):
        alone = {key: value[row : row + 1, :length] for key, value in whole.items()}
        torch.testing.assert_close(model(alone)[0], logits[row], rtol=1e-4, atol=1e-5)


def test_losses_and_predictions_of_a_regression():
    model = classifier(task="stsb").eval()
    logits = model(batch())
    labels = torch.tensor([0.5, 5.0, 2.0])
    assert logits.shape == (3, 1)
    loss = model(batch(), dict(index=[4, 5, 6], labels=labels), mode="loss")["loss_cls"]
    torch.testing.assert_close(loss, (logits[:, 0] - labels).square().mean())
    rows = model(batch(), dict(index=[4, 5, 6], labels=labels), mode="predict")
    assert [row["index"] for row in rows] == [4, 5, 6] and rows[1]["prediction"] == pytest.approx(float(logits[1]))
    assert rows[1]["label"] == 5.0
    assert model(batch(), dict(index=[0, 1, 2]), mode="predict")[0]["label"] is None
    with pytest.raises(ValueError, match="take split='train'"):
        model(batch(), dict(index=[0, 1, 2]), mode="loss")


def test_weights_from_a_folder_that_transformers_saved(tmp_path):
    torch.manual_seed(3)
    source = BertForPreTraining(BertConfig(**SMALL))
    source.save_pretrained(tmp_path)
    model = classifier(pretrained=str(tmp_path))
    model.init_weights()
    theirs = {f"net.{k}": v for k, v in source.state_dict().items() if k.startswith("bert.")}
    own = model.state_dict()
    assert len(theirs) > 30 and all(torch.equal(own[name], value) for name, value in theirs.items())
    name, layer = next(iter(binary_layers(model).items()))
    assert torch.equal(layer.alpha, scale_init(theirs[f"{name}.weight"]).flatten())


def test_norms_in_front_of_signs_are_not_in_pretrained_weights(tmp_path):
    BertForPreTraining(BertConfig(**SMALL)).save_pretrained(tmp_path)
    model = BertClassifier("rte", SMALL, dict(type="ReBNNLinear", input_norm=True), pretrained=str(tmp_path))
    model.init_weights()


def test_pretrained_that_cannot_be_used(tmp_path):
    BertForPreTraining(BertConfig(**{**SMALL, "num_hidden_layers": 1})).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"num_hidden_layers=1 \(the config has 2\); set it under model.bert"):
        classifier(pretrained=str(tmp_path)).init_weights()
    BertForPreTraining(BertConfig(**SMALL)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be read: .*give a folder that transformers saved"):
        classifier(pretrained=str(tmp_path)).init_weights()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no config.json"):
        classifier(pretrained=str(tmp_path / "empty")).init_weights()


def test_what_is_refused():
    with pytest.raises(ValueError, match="level='1-2' is not one of 1-32, 1-1, 1-1-1"):
        classifier("1-2")
    with pytest.raises(ValueError, match="task 'squad'"):
        classifier(task="squad")
    with pytest.raises(ValueError, match="input_norm='batch' is not one of"):
        classifier(layer=dict(type="ReBNNLinear", input_norm="batch"))
    with pytest.raises(ValueError, match="the model takes 1 to 512 tokens"):
        batch((513,))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("options", [{}, dict(input_norm="layer", shortcut=True)], ids=["plain", "norm+shortcut"])
@pytest.mark.parametrize("method", ["ReBNN", "XNOR"])
def test_packed_gives_the_same_bits(level, options, method, tmp_path):
    layer = dict(type=f"{method}Linear", **options)
    model = moved(classifier(level, layer=layer))
    inputs = [batch(), batch((5, 1)), batch((3,))]
    check = Check(inputs, lambda part, x: part(x))
    export_model(model, tmp_path / "m.rebnn", check=check)
    torch.manual_seed(7)
    packed = load_model(tmp_path / "m.rebnn", model=BertClassifier("rte", SMALL, layer, level))
    for x in inputs:
        with torch.no_grad():
            assert torch.equal(packed(x), model(x))


def test_embeddings_halve_too(tmp_path):
    model = moved(classifier())
    sizes = [
        export_model(model, tmp_path / "m.rebnn", check=Check([batch()], lambda p, x: p(x)), float16=half).size
        for half in (False, True)
    ]
    rows = (40 + 512 + 2) * 32
    assert sizes[0] - sizes[1] > 2 * rows
    packed = load_model(tmp_path / "m.rebnn", model=classifier())
    torch.testing.assert_close(
        packed.net.bert.embeddings.word_embeddings.weight,
        model.net.bert.embeddings.word_embeddings.weight.half().float(),
    )


def test_shortcut_and_layer_norm_are_where_the_layer_says():
    torch.manual_seed(0)
    layer = MODELS.build(dict(type="ReBNNLinear", in_features=6, out_features=6, input_norm="layer", shortcut=True))
    plain = MODELS.build(dict(type="ReBNNLinear", in_features=6, out_features=6))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 6) + 4
    assert torch.equal(layer(x), plain(x - x.mean(-1, keepdim=True)) + x)
    other = MODELS.build(dict(type="ReBNNLinear", in_features=6, out_features=4, shortcut=True))
    assert other(x).shape == (2, 3, 4) and not other.shortcut
    assert set(layer.state_dict()) == {"weight", "bias", "alpha", "gamma"}


def test_one_word_reaches_data_and_model():
    cfg = read_config(CONFIGS / "bert_rebnn_tiny_glue_sst2.py", {"task": "mnli", "vocab_file": "v.txt"})
    parts = (cfg.model, cfg.train_dataloader.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset)
    assert [part.task for part in parts] == ["mnli"] * 4
    assert [part.vocab_file for part in parts[1:]] == ["v.txt"] * 3
    assert build_model(cfg).net.classifier.out_features == 3


def test_sizes_of_the_shipped_networks():
    counts = {}
    for size in ("tiny", "small", "base"):
        cfg = read_config(CONFIGS / f"bert_rebnn_{size}_glue_rte.py")
        with torch.device("meta"):
            net = BertForSequenceClassification(BertConfig(**cfg.model.bert))
        counts[size] = sum(p.numel() for p in net.bert.parameters())
    # millions, with embeddings and pooler
    assert {size: round(n / 1e5) / 10 for size, n in counts.items()} == dict(tiny=4.4, small=28.8, base=109.5)


def test_eager_attention_is_what_runs():
    assert not any("Sdpa" in type(m).__name__ for m in classifier("1-1").modules())
    assert isinstance(classifier().net.classifier, nn.Linear)


ELASTIC = {**SMALL, "hidden_act": "relu"}


def elastic_classifier(level="1-1-1", bert=ELASTIC):
    torch.manual_seed(0)
    return BertClassifier("rte", bert, REBNN, level, elastic=True)


def test_elastic_activations_are_where_the_paper_has_them():
    labels = dict(index=[0, 1, 2], labels=torch.tensor([0, 1, 1]))
    for level, bert, unsigned in (("1-1", SMALL, 0), ("1-1", ELASTIC, 2), ("1-1-1", ELASTIC, 4)):
        model = elastic_classifier(level, bert).train()
        model(batch(), labels, mode="loss")["loss_cls"].backward()
        found = {name: m for name, m in model.named_modules() if isinstance(m, ElasticSTE)}
        assert len(found) == 2 * (6 if level == "1-1" else 10) and sum(m.unsigned for m in found.values()) == unsigned
        assert all(m.alpha.grad is not None and m.alpha.item() != 1 for m in found.values())
    assert not [m for m in elastic_classifier("1-32").modules() if isinstance(m, ElasticSTE)]


def test_padding_changes_nothing_where_the_threshold_of_attention_is_below_0():
    model = moved(elastic_classifier())
    with torch.no_grad():
        for layer in model.net.bert.encoder.layer:
            layer.attention.self.attend.elastic["weights"].beta.fill_(-1.0)
    whole = batch()
    logits = model(whole)
    for row, length in enumerate((9, 4, 6)):
        alone = {key: value[row : row + 1, :length] for key, value in whole.items()}
        torch.testing.assert_close(model(alone)[0], logits[row], rtol=1e-4, atol=1e-5)


def test_elastic_packed_gives_the_same_bits(tmp_path):
    model = elastic_classifier().train()
    model(batch())
    moved(model)
    inputs = [batch(), batch((5, 3))]
    parts = [Part("net", [inputs[0][name] for name in NET_INPUTS], lambda net, *x: net(*x).logits)]
    export_model(model, tmp_path / "m.rebnn", check=Check(inputs, lambda part, x: part(x)), parts=parts)
    packed = load_model(tmp_path / "m.rebnn", model=elastic_classifier())
    for x in inputs:
        with torch.no_grad():
            assert torch.equal(packed(x), model(x))


def test_elastic_starts_from_a_real_valued_folder(tmp_path):
    BertForPreTraining(BertConfig(**ELASTIC)).save_pretrained(tmp_path)
    torch.manual_seed(0)
    BertClassifier("rte", ELASTIC, REBNN, elastic=True, pretrained=str(tmp_path)).init_weights()
