"""``--cfg-options``: what an option reaches; configs and types that are wrong, and faults that are not the user's."""

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.integrations import config as config_module
from rebnn_mm.integrations.build import build_model, building, read_config
from rebnn_mm.integrations.config import apply_options, read_words


def config(root="data/my/"):
    bare = root.rstrip("/")
    return Config(
        dict(
            data_root=root,
            task="rte",
            model=dict(task="rte", teacher=dict(task="mnli")),
            train_dataloader=dict(
                dataset=dict(
                    data_root=root,
                    task="rte",
                    ann_file=f"{bare}/train.json",
                    other=f"{bare}_other/train.json",
                    source=dict(datasets=[dict(data_root=bare, names=[f"{bare}/a", "a"]), dict(data_root=f"{bare}2/")]),
                )
            ),
            val_evaluator=dict(ann_file=(f"{bare}/val.json", f"x/{bare}/val.json")),
        )
    )


@pytest.mark.parametrize("root", ["data/my", "data/my/"])
@pytest.mark.parametrize("new", ["data/my_new", "data/my_new/", "/"])
def test_data_root_reaches_whole_paths_only(root, new):
    cfg, bare = config(root), new.rstrip("/")
    apply_options(cfg, {"data_root": new})
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root.rstrip("/") == bare and dataset.ann_file == f"{bare}/train.json"
    assert dataset.other == "data/my_other/train.json"
    first, second = dataset.source.datasets
    assert first.data_root == (bare or "/") and first.names == [f"{bare}/a", "a"] and second.data_root == "data/my2/"
    assert cfg.val_evaluator.ann_file == (f"{bare}/val.json", "x/data/my/val.json")


@pytest.mark.parametrize("first", [True, False])
def test_a_value_that_the_user_gives_holds(first):
    given = {"train_dataloader.dataset.data_root": "data/my/own/", "val_evaluator.ann_file": "data/my/v.json"}
    whole = {"data_root": "/d"}
    cfg = config()
    apply_options(cfg, {**whole, **given} if first else {**given, **whole})
    assert cfg.train_dataloader.dataset.data_root == "data/my/own/" and cfg.val_evaluator.ann_file == "data/my/v.json"
    assert cfg.data_root == "/d" and cfg.train_dataloader.dataset.ann_file == "/d/train.json"


def test_a_shared_value_reaches_its_copies_and_no_other():
    cfg = config()
    apply_options(cfg, {"model.task": "cola", "task": "mrpc"})
    assert (cfg.task, cfg.model.task, cfg.train_dataloader.dataset.task) == ("mrpc", "cola", "mrpc")
    assert cfg.model.teacher.task == "mnli"


@pytest.mark.parametrize("root", [None, "", "./", "/"])
def test_config_without_a_data_root(root):
    cfg = Config(dict(a=1) if root is None else dict(data_root=root, ann_file="a.json"))
    with pytest.raises(UserError, match="no data_root of its own"):
        apply_options(cfg, {"data_root": "x"})


@pytest.mark.parametrize("key", ["model.task.x", "train_dataloader.dataset.source.datasets.7.x", "data_root.x"])
def test_option_without_a_place(key):
    with pytest.raises(UserError, match=f"--cfg-options {key}=1: the config has no place"):
        apply_options(config(), {key: 1})


@MODELS.register_module(force=True)
class RaisesKeyError(nn.Module):
    def __init__(self):
        super().__init__()
        raise KeyError("not in the table of my registry")


def test_unknown_type_is_a_sentence_and_a_constructors_key_error_is_not():
    with pytest.raises(UserError, match="Nowhere is not in the .*registry; check the name"):
        building(lambda: MODELS.build(dict(type="Nowhere")))
    with pytest.raises(KeyError, match="table") as caught:
        building(lambda: MODELS.build(dict(type="RaisesKeyError")))
    assert not isinstance(caught.value, UserError)


@MODELS.register_module(name="Inner", force=True)
class _Inner(nn.Module):
    def __init__(self, size=1):
        super().__init__()
        self.size = size + 0


@MODELS.register_module(name="Outer", force=True)
class _Outer(_Inner):
    """Hands its options on; a fault of its own is none of the config's."""

    def __init__(self, part=None, **kwargs):
        super().__init__(**kwargs)
        self.part = MODELS.build(part) if part is not None else None


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(type="Inner", sise=3), "type='_Inner': got an unexpected keyword argument 'sise'"),
        (dict(type="Outer", sise=3), "type='_Outer': got an unexpected keyword argument 'sise'"),
        (dict(type="Outer", part=dict(type="Inner", sise=3)), "type='_Inner': got an unexpected"),
        (dict(type="Outer", part=7), "cfg should be a dict"),
    ],
)
def test_an_option_that_a_type_does_not_have_is_a_sentence(cfg, message):
    with pytest.raises(UserError, match=f"the config cannot be built: .*{message}.*check its options"):
        building(lambda: MODELS.build(cfg))


@MODELS.register_module(name="Annotated", force=True)
class _Annotated(_Inner):
    def __init__(self, depth: int = 18, sizes: "list[int] | None" = None, stem: str = "x", free=None, **kwargs):
        assert isinstance(sizes, (list, type(None)))
        if depth != 18 or stem != "x":
            raise ValueError("no such depth or stem")
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(depth="abc"), "ValueError: no such depth or stem; perhaps since depth='abc' is a text, int is needed"),
        (dict(sizes="abc"), r"AssertionError: [\s\S]*since sizes='abc' is a text, list\[int\] \| None is needed"),
        (dict(size="abc"), "TypeError: .*; perhaps since size='abc' is a text, a number as its default, 1, is needed"),
    ],
)
def test_a_text_where_a_type_wants_none_is_a_sentence(cfg, message):
    with pytest.raises(UserError, match=f"the config cannot be built: type='_Annotated': {message}"):
        building(lambda: MODELS.build(dict(type="Annotated", **cfg)))


@pytest.mark.parametrize("cfg", [dict(depth=19), dict(stem="y"), dict(free="abc", depth=0)])
def test_a_constructors_own_value_error_is_its_own(cfg):
    with pytest.raises(ValueError, match="no such depth") as caught:
        building(lambda: MODELS.build(dict(type="Annotated", **cfg)))
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("kind", [KeyError, TypeError, ValueError])
def test_an_error_keeps_its_cause(kind):
    def fail():
        raise kind("outer") from OSError("inner")

    with pytest.raises(kind, match="outer") as caught:
        building(fail)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_constructors_own_type_error_is_its_own():
    with pytest.raises(TypeError, match="concatenate") as caught:
        building(lambda: MODELS.build(dict(type="Inner", size=[])))
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = (", "cannot be read"),
        ("_base_ = ['nowhere.py']", "cannot be read.*nowhere"),
        ("a = b", "cannot be read.*'b' is not defined"),
        (
            "custom_imports = dict(imports=['nowhere_at_all'])",
            "imports what is not installed: No module named 'nowhere",
        ),
        ("default_scope = 'mmseg'\nmodel = dict()", "allowed are mmdet"),
        ("default_scope = 'mmengine'", "has no model"),
        ("a = int('x')", "cannot be read: ValueError: invalid literal"),
        ("a = [][1]", "cannot be read: IndexError"),
        ("custom_imports = ['mine']", r"custom_imports=\['mine'\]: dict\(imports=\['MODULE', ...\]\) is needed"),
        ("custom_imports = dict(import_=['mine'])", r"dict\(imports=\['MODULE', ...\]\) is needed"),
    ],
)
def test_bad_config(tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_config(tmp_path / "c.py")


def test_a_config_that_is_not_utf8(tmp_path):
    (tmp_path / "c.py").write_bytes("# für Bäume".encode("cp1252"))
    with pytest.raises(UserError, match=r"c.py cannot be read: .*not UTF-8 \(byte 0xfc at 3\); save it as UTF-8"):
        read_config(tmp_path / "c.py")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("train_dataloadr.batch_size", "train_dataloader"),
        ("train_dataloader.dataset.an_file", "ann_file"),
        ("model.backbone.depth", None),
        ("load_from", None),
        ("train_dataloader.dataset.task", None),
    ],
)
def test_an_option_beside_one_of_almost_its_name_is_warned_of(monkeypatch, key, near):
    """Nobody reads ``train_dataloadr``; a new option of a type is right."""
    said: list = []
    monkeypatch.setattr(config_module, "print_log", lambda text, *_: said.append(text))
    apply_options(config(), {key: 1})
    assert [text.rpartition("; ")[2] for text in said] == ([f"did you mean {near}?"] if near else [])


def test_no_config(tmp_path):
    with pytest.raises(MissingFileError, match="is not a file"):
        read_config(tmp_path)


@pytest.mark.parametrize("error", [KeyError("a"), ImportError("cannot import name 'x'", name="rebnn_mm.bits")])
def test_fault_in_an_imported_module_of_ours_keeps_its_traceback(tmp_path, monkeypatch, error):
    def fail(**kwargs):
        raise error

    (tmp_path / "c.py").write_text(
        "default_scope = 'mmengine'\nmodel = dict()\ncustom_imports = dict(imports=['rebnn_mm'])"
    )
    monkeypatch.setattr(config_module, "import_modules_from_strings", fail)
    with pytest.raises(type(error)) as caught:
        read_config(tmp_path / "c.py")
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("device", ["nowhere", "cuda:77"])
def test_unusable_device(device):
    cfg = Config(dict(default_scope="mmengine", model=dict(type="ToyLinear")))
    MODELS.register_module(name="ToyLinear", module=lambda: nn.Linear(1, 1), force=True)
    with pytest.raises(UserError, match="device .* cannot be used.*cpu always works"):
        build_model(cfg, device)


def test_words_are_read_as_mmengine_reads_them():
    words = ["a.b=1", "c=1e-3", "d=[1,(2,x)]", "e=None", "f=a=b", "a.b=2", "g="]
    assert read_words(words) == {"a.b": 2, "c": 1e-3, "d": [1, (2, "x")], "e": None, "f": "a=b", "g": ""}
    assert read_words(None) == {}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr", "--metric lr: KEY=VALUE is needed"),
        ("=3", "--metric =3: KEY=VALUE is needed"),
        ("a=[1,(2]", r"--metric a=\[1,\(2\]: Imbalanced brackets"),
    ],
)
def test_words_that_are_no_options_are_refused(word, message):
    with pytest.raises(UserError, match=message):
        read_words(["b=1", word], "--metric")
