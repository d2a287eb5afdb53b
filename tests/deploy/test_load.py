import copy
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_defaults import torch_defaults

from rebnn_mm.deploy import Check, ModelCard, Preprocessing, RebnnFileError, export_model, load_model
from rebnn_mm.deploy.file.container import read_file, write_file
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.layers import ReBNNLinear

# small maps: starting threads would cost more than they save
pytestmark = [pytest.mark.usefixtures("threads"), pytest.mark.slow]

RGB = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb")


@pytest.fixture
def small(classifier, tmp_path):
    """(file, trained model) of a small classifier."""
    model = classifier(base_channels=8)
    export_model(model, tmp_path / "m.rebnn", ModelCard(preprocessing=RGB))
    return tmp_path / "m.rebnn", model


@pytest.mark.parametrize(
    "options",
    [
        dict(depth=18, base_channels=64, classes=1000),
        dict(depth=34, base_channels=16),
        dict(depth=50, base_channels=16),
        dict(depth=18, stem="cifar"),
        dict(depth=18, in_channels=4),
    ],
    ids=str,
)
def test_network_equals_the_trained_one_bit_for_bit(classifier, tmp_path, options):
    model = classifier(**options)
    export_model(model, tmp_path / "m.rebnn")
    packed = load_model(tmp_path / "m.rebnn")
    assert isinstance(packed.network, GraphNetwork)
    channels = options.get("in_channels", 3)
    for shape in [(1, channels, 64, 64), (2, channels, 65, 97), (3, channels, 33, 32), (1, channels, 1, 1)]:
        for _ in range(3):  # the second call chooses memory layouts, the third uses them
            x = torch.randn(shape)
            assert torch.equal(model(x), packed.logits(x))


def test_backbone_alone_gives_all_its_maps(tmp_path):
    from rebnn_mm.backbones import ReBNNResNet

    net = ReBNNResNet(18, base_channels=8, out_indices=(0, 2)).eval()
    export_model(net, tmp_path / "m.rebnn", check=Check([torch.randn(1, 3, 50, 70)]))
    packed = load_model(tmp_path / "m.rebnn")
    maps = packed(torch.randn(1, 3, 50, 70))
    assert [m.shape[1] for m in maps] == [8, 32] and all(m.is_contiguous() for m in maps)


def test_scores_include_the_preprocessing(small, tmp_path):
    file, model = small
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    mean, std = torch.tensor(RGB.mean).view(-1, 1, 1), torch.tensor(RGB.std).view(-1, 1, 1)
    expected = model((images.float() - mean) / std).softmax(1)
    assert torch.equal(load_model(file)(images), expected)
    export_model(model, tmp_path / "bgr.rebnn", ModelCard(preprocessing=Preprocessing(RGB.mean, RGB.std, "bgr")))
    assert torch.equal(load_model(tmp_path / "bgr.rebnn")(images.flip(1)), expected)
    with pytest.raises(ValueError, match=r"give \(N, C, H, W\)"):
        load_model(file)(images[0])


def test_exact_false_is_near(small):
    file, model = small
    x = torch.randn(2, 3, 64, 64)
    near = load_model(file, exact=False).logits(x)
    assert (near - model(x)).abs().max() < 0.2 * model(x).abs().max()


def test_thread_counts_give_the_same_bits(classifier, tmp_path, threads):
    model = classifier(base_channels=32)
    export_model(model, tmp_path / "m.rebnn")
    packed = load_model(tmp_path / "m.rebnn")
    for shape in [(1, 3, 64, 64), (2, 3, 51, 77)]:
        x = torch.randn(shape)
        for count in (1, 2, 3):
            threads(count)
            assert torch.equal(packed.logits(x), model(x))


def test_one_model_serves_many_python_threads(small):
    file, model = small
    packed = load_model(file)
    inputs = [torch.randn(1 + i % 2, 3, 32 + 3 * i, 40) for i in range(6)]
    expected = [model(x) for x in inputs]
    barrier = threading.Barrier(4)

    def work(seed):
        barrier.wait()
        return all(torch.equal(packed.logits(inputs[i % 6]), expected[i % 6]) for i in range(seed, seed + 12))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.slow
def test_a_thousand_loads_leave_nothing_behind(small):
    file, _ = small
    x = torch.randn(1, 3, 32, 32)

    def resident():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        # by its whole path: other tests use the name m.rebnn, and one of them may still hold its file
        return pages, Path("/proc/self/maps").read_text().count(str(file.resolve()))

    if not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")
    for _ in range(100):
        load_model(file).logits(x)
    pages, _ = resident()
    for index in range(1000):
        packed = load_model(file)
        if index % 20 == 0:
            packed.logits(x)
    assert resident()[1] > 0  # one is alive, and seen
    del packed
    after, maps = resident()
    assert maps == 0 and (after - pages) * 4096 < 8 << 20


def test_a_mapped_model_outlives_its_file(small):
    file, model = small
    packed = load_model(file)
    export_model(model, file)  # replaces the name, not the mapped bytes
    file.unlink()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(packed.logits(x), model(x))


def changed(info, **changes):
    """A header with the graph's first node, its whole or its card changed."""
    info = copy.deepcopy(info)
    nodes = info["graphs"][""]["nodes"]
    for key, value in changes.items():
        if key == "operator":
            nodes[0][0] = value
        elif key == "inputs":
            info["graphs"][""]["inputs"] = value
        elif key == "tensor":
            nodes[0][1][1] = {"tensor": value}
        elif key == "geometry":
            unit = next(node for node in nodes if node[0].startswith("rebnn.binary_conv2d"))
            unit[1][2] = value
        else:
            info[key] = value
    return info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(graphs=[]), "graphs are a list"),
        (dict(graphs={}), "names .* as its whole network, which is none of its graphs"),
        (dict(whole=7), "names 7 as its whole network"),
        (dict(whole=dict(part=[])), "names {.part.: \\[\\]} as its whole network"),
        (dict(graphs={"": 7}), "graph is malformed"),
        (dict(operator="aten.relu_.default"), "'aten.relu_.default' is no operator"),
        (dict(tensor="nothing"), "names the tensor 'nothing'"),
        (dict(geometry=[1, 2]), "11 integers"),
        (dict(geometry=[64, 64, 9, 9, 1, 1, 1, 1, 1, 1, 1]), "the bits of a weight"),
        (dict(preprocessing=dict(mean=(1.0,), std=(1.0,))), "preprocessing is for 1 channels"),
        (dict(preprocessing=dict(mean=(1.0,), std=(0.0,))), "divides by zero"),
        (dict(preprocessing=dict(mean=("a",), std=(0.0,))), "not as many numbers"),
        (dict(preprocessing=dict(foo=1)), "preprocessing is malformed"),
        (dict(metrics=3), "metrics is a int"),
        (dict(inputs=[dict(dtype="float32", shape=[None], least=[0])]), "a classifier takes images"),
        (dict(inputs=[dict(dtype="float32", shape=[None], least=[0], most=[-1])]), "at most"),
    ],
)
def test_headers_that_do_not_fit_the_tensors(small, tmp_path, change, message):
    file = read_file(small[0])
    write_file(tmp_path / "bad.rebnn", changed(file.info, **change), file.tensors)
    with pytest.raises(RebnnFileError, match=message):
        load_model(tmp_path / "bad.rebnn")


def test_a_tensor_too_many_is_refused(small, tmp_path):
    file = read_file(small[0])
    write_file(tmp_path / "bad.rebnn", file.info, {**file.tensors, "more": torch.zeros(3)})
    with pytest.raises(RebnnFileError, match="holds 1 tensors that its network has no place for: 'more'"):
        load_model(tmp_path / "bad.rebnn")


def test_torch_export_sees_the_operators_and_keeps_the_bits(small):
    file, _ = small
    model = load_model(file)
    # an open height or width fails in torch: its average pool with ceil_mode asks whether sizes are even
    sizes = {0: torch.export.Dim("n", max=8)}
    images = torch.rand(2, 3, 40, 50)
    program = torch.export.export(model, (images,), dynamic_shapes=(sizes,))
    calls = [str(node.target) for node in program.graph.nodes if "rebnn_mm.binary_conv2d" in str(node.target)]
    assert len(calls) == 16
    for count in (2, 5):
        images = torch.randint(0, 256, (count, 3, 40, 50)).float()
        assert torch.equal(program.module()(images), model(images))


def test_a_copy_runs_alike(small):
    model = load_model(small[0])
    images = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8)
    assert torch.equal(copy.deepcopy(model)(images), model(images))


class Thresholds(nn.Module):
    """A 1-bit layer behind another one and a GELU: its signs become thresholds, which loading computes."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 3)
        self.a, self.b = ReBNNLinear(16, 32), ReBNNLinear(32, 16)

    def forward(self, x):
        return self.last(self.b(nn.functional.gelu(self.a(self.first(x)))))


def test_torchs_default_type_and_device_do_not_count(tmp_path):
    torch.manual_seed(0)
    model, x = Thresholds().eval(), torch.randn(2, 5, 16)
    export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True))
    expected = load_model(tmp_path / "m.rebnn")(x)
    with torch_defaults(torch.float64):
        packed = load_model(tmp_path / "m.rebnn")
    assert torch.equal(packed(x), expected)
