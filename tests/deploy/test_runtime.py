import copy
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from rebnn_mm.deploy.real import FoldedNorm, PooledStem, RealConv2d

from rebnn_mm.deploy import Check, ModelCard, Preprocessing, RebnnFileError, export_model, load_model
from rebnn_mm.deploy.format import read_file, write_file
from rebnn_mm.deploy.graph.network import GraphNetwork

# small maps: starting threads would cost more than they save
pytestmark = pytest.mark.usefixtures("threads")

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
    assert isinstance(packed.backbone, GraphNetwork)
    channels = options.get("in_channels", 3)
    for shape in [(1, channels, 64, 64), (2, channels, 65, 97), (3, channels, 33, 32), (1, channels, 1, 1)]:
        for _ in range(3):  # the second call chooses memory layouts, the third uses them
            x = torch.randn(shape)
            for a, b in zip(model.backbone(x), packed.backbone(x), strict=True):
                assert torch.equal(a, b)
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


def test_a_thousand_loads_leave_nothing_behind(small):
    file, _ = small
    x = torch.randn(1, 3, 32, 32)

    def resident():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages, Path("/proc/self/maps").read_text().count(file.name)

    if not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")
    for _ in range(100):
        load_model(file).logits(x)
    pages, _ = resident()
    for index in range(1000):
        packed = load_model(file)
        if index % 20 == 0:
            packed.logits(x)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(network=dict(classes=3)), "record is malformed: 'backbone'"),
        (dict(network=[]), "record is malformed"),
        (dict(network=dict(backbone=dict(block="x"))), "record is malformed"),
        (dict(blocks=(4, 4, 4)), "no six positive integers"),
        (dict(blocks=(4, 4, 4, 1 << 19)), "'backbone.layer4.4.unit.shift.shift' is missing"),
        (dict(blocks=(4, 4, 4, 3)), "no place for"),
        (dict(base_channels=1 << 19), "needs a real-valued one of shape"),
        (dict(base_channels=True), "no six positive integers"),
        (dict(block="bottleneck"), "is missing"),
        (dict(stem="cifar"), r"needs a real-valued one of shape \(8, 3, 3, 3\)"),
        (dict(out_indices=(4,)), "not among 0, 1, 2, 3"),
        (dict(classes=11), "'head.fc.weight' is a real-valued tensor"),
        (dict(classes=-1), "no positive integer"),
        (dict(preprocessing=dict(mean=(1.0,), std=(1.0,))), "preprocessing is for 1 channels"),
        (dict(preprocessing=dict(mean=(1.0,), std=(0.0,))), "divides by zero"),
        (dict(preprocessing=dict(mean=("a",), std=(0.0,))), "not as many numbers"),
        (dict(preprocessing=dict(foo=1)), "preprocessing is malformed"),
        (dict(metrics=3), "metrics is a int"),
    ],
)
def test_headers_that_do_not_fit_the_tensors(small, tmp_path, change, message):
    file = read_file(small[0])
    network = {**file.info["network"], "backbone": dict(file.info["network"]["backbone"])}
    for key, value in change.items():
        if key in network["backbone"]:
            network["backbone"][key] = value
        elif key == "classes":
            network[key] = value
    write_file(
        tmp_path / "bad.rebnn",
        {**file.info, "network": network, **{k: v for k, v in change.items() if k in file.info and k != "classes"}},
        file.tensors,
    )
    with pytest.raises(RebnnFileError, match=message):
        load_model(tmp_path / "bad.rebnn")


def test_the_stem_pools_before_its_norm_without_changing_a_bit():
    torch.manual_seed(0)
    weight, scale, offset = torch.randn(16, 3, 7, 7), torch.randn(16), torch.randn(16)
    scale[:3] = torch.tensor([0.0, -0.0, 1e-30])
    x = torch.randn(2, 3, 45, 60)
    y = torch.nn.functional.conv2d(x, weight, None, 2, 3)
    expected = torch.nn.functional.max_pool2d(FoldedNorm(scale, offset)(y), 3, 2, 1)
    assert torch.equal(PooledStem(weight, scale, offset)(x), expected)


@pytest.mark.parametrize("shape", [(3, 8, 7), (256, 3, 1), (64, 128, 1), (3, 64, 3)])
def test_real_convolutions_keep_the_bits_of_the_contiguous_layout(shape, threads):
    c_in, c_out, kernel = shape
    weight = torch.randn(c_out, c_in, kernel, kernel)
    conv = RealConv2d(weight, padding=kernel // 2)
    for count in (1, 2):
        threads(count)
        for size in ((1, c_in, 14, 14), (2, c_in, 19, 25)):
            conv(torch.zeros(size))  # must not decide anything
            for _ in range(3):
                x = torch.randn(size)
                expected = torch.nn.functional.conv2d(x, weight, None, 1, kernel // 2)
                for layout in (torch.contiguous_format, torch.channels_last):
                    assert torch.equal(conv(x.contiguous(memory_format=layout)), expected)


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
