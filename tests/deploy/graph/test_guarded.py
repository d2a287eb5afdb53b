"""What a file's operators are given is checked where torch would end the process."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from rebnn_mm.deploy.file.container import RebnnFileError
from rebnn_mm.deploy.graph.guarded import GUARDED, SYMBOLS
from rebnn_mm.deploy.graph.network import GraphNetwork

SMALLEST = torch.iinfo(torch.int64).min
INPUT = dict(dtype="float32", shape=[None, 4], least=[0, 4])


def network(rows, tensors, output, inputs=(INPUT,)):
    return GraphNetwork(dict(inputs=list(inputs), nodes=rows, output=output), tensors)


def test_integers_that_no_division_gives():
    tensors = {"a": torch.tensor([SMALLEST]), "b": torch.tensor([-1])}
    row = ["aten.div.Tensor_mode", [{"tensor": "a"}, {"tensor": "b"}], {"rounding_mode": "trunc"}, 1]
    with pytest.raises(RebnnFileError, match="by -1 is no"):
        network([row], tensors, {"tuple": [{"node": 0}, {"input": 0}]})


@pytest.mark.parametrize("target", SYMBOLS)
def test_sizes_without_end_are_refused_in_recorded_calls_too(target):
    assert SYMBOLS[target] is GUARDED[target] and SYMBOLS[target](2, 3) in (8, 16)
    with pytest.raises(ValueError, match="is no size"):
        SYMBOLS[target](3, 1 << 40)
    rows = [
        ["aten.sym_size.int", [{"input": 0}, 1], {}, None],
        [f"size.{target.__name__}", [{"node": 0}, 1 << 40], {}, None],
    ]
    built = network(rows, {}, {"tuple": [{"node": 1}, {"input": 0}]})
    with pytest.raises(ValueError, match="is no size"):
        make_fx(built)(torch.ones(2, 4))


@pytest.mark.parametrize("target", [op for op in GUARDED if "Tensor" in str(op)], ids=str)
def test_other_integers_are_divided_as_torch_does(target):
    a, b = torch.tensor([7, -7, SMALLEST]), torch.tensor([-1, 2, 3])
    keywords = {"rounding_mode": "trunc"} if "mode" in str(target) else {}
    a = 5 if "Scalar_" in str(target) and not keywords else a
    assert torch.equal(GUARDED[target](a, b, **keywords), target(a, b, **keywords))


@pytest.mark.parametrize("name", ["_native_batch_norm_legit_no_training.default", "_native_batch_norm_legit.no_stats"])
def test_vectors_of_a_norm_have_an_element_a_channel(name):
    own = [{"tensor": "v"}] * (4 if "default" in name else 2)
    settings = [0.1, 1e-5] if "default" in name else [True, 0.1, 1e-5]
    rows = [
        [f"aten.{name}", [{"tensor": "x"}, *own, *settings], {}, None],
        ["size.getitem", [{"node": 0}, 0], {}, 4],
    ]
    output = {"tuple": [{"node": 1}, {"input": 0}]}
    with pytest.raises(RebnnFileError, match="with vectors of"):
        network(rows, {"x": torch.ones(1, 300, 1, 2), "v": torch.ones(1)}, output)
    y, _ = network(rows, {"x": torch.ones(1, 300, 1, 2), "v": torch.ones(300)}, output)(torch.ones(2, 4))
    assert y.shape == (1, 300, 1, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["size.mul", [{"node": k}, {"node": k}], {}, None] for k in range(45)], "bits is no size"),
        ([["size.mul", [[0], 1 << 29], {}, None]], "of sizes takes numbers, got .*list, int"),
        ([["size.add", ["ab", "cd"], {}, None]], "of sizes takes numbers, got str, str"),
        ([["size.pow", [{"node": 0}, 1 << 40], {}, None]], "is no size"),
        ([["size.lshift", [{"node": 0}, 1 << 40], {}, None]], "is no size"),
    ],
)
def test_numbers_of_sizes_do_not_grow_without_an_end(rows, message):
    size = ["aten.sym_size.int", [{"input": 0}, 1], {}, None]
    built = network([size, *rows], {}, {"tuple": [{"node": len(rows)}, {"input": 0}]})
    with pytest.raises(RebnnFileError, match=message):
        built(torch.ones(2, 4))
