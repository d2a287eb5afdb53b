"""A graph as it is stored and run: sizes, copies, refusals."""

import copy
import json
import pickle

import pytest
import torch
from graph_toys import names, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy.file.container import RebnnFileError
from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.operators import OPERATORS
from rebnn_mm.deploy.graph.record import decode, encode
from rebnn_mm.errors import UserError


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return settle(ReBNNResNet(18, base_channels=8, out_indices=(1, 3)))


@pytest.mark.slow
def test_any_size_of_image_and_batch(packed, backbone):
    traced, network = packed(backbone, torch.randn(2, 3, 64, 64))
    assert sum(name.startswith("rebnn.binary") for name in names(traced)) == 16
    for shape in ((1, 3, 64, 64), (3, 3, 33, 57), (1, 3, 128, 40)):
        x = torch.randn(shape)
        found, expected = network(x), backbone(x)
        assert len(found) == 2 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert all(a.is_contiguous() for a in found)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(packed, backbone, threads):
    network = packed(backbone, torch.randn(2, 3, 64, 64))[1]
    x, before = torch.randn(1, 3, 96, 96), torch.get_num_threads()
    expected = backbone(x)
    torch.set_num_threads(threads)
    try:
        found = network(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[-1], expected[-1])


@pytest.mark.slow
@pytest.mark.parametrize("treat", [copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_give_the_same_bits(packed, backbone, treat):
    network, x = packed(backbone, torch.randn(2, 3, 64, 64))[1], torch.randn(1, 3, 64, 64)
    assert torch.equal(treat(network)(x)[-1], network(x)[-1])


@pytest.mark.slow
def test_the_record_is_plain_and_small(packed, backbone):
    traced, _ = packed(backbone, torch.randn(2, 3, 64, 64))
    record = encode(traced)
    text = json.dumps(record)
    network = GraphNetwork(json.loads(text), traced.tensors)
    assert "operators, 16 of them 1-bit" in str(network) and len(text) < 40_000


@pytest.mark.slow
def test_wrong_inputs_are_named(packed, backbone):
    network = packed(backbone, torch.randn(2, 3, 64, 64))[1]
    with pytest.raises(
        UserError, match=r"input 0 has the shape \(1, 4, 64, 64\); the network takes \(>=0, 3, >=1, >=1\)"
    ):
        network(torch.randn(1, 4, 64, 64))
    with pytest.raises(UserError, match="input 0 is torch.float64; the network takes float32"):
        network(torch.randn(1, 3, 64, 64).double())
    with pytest.raises(TypeError, match="takes 1 inputs, got 2"):
        network(torch.randn(1, 3, 64, 64), torch.randn(1))


def test_a_forward_that_depends_on_values_is_refused_with_its_reason():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="Branch cannot be captured as a graph: "):
        capture(Branch(), [torch.randn(2, 3)])


def test_random_operators_are_not_stored():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    with pytest.raises(UserError, match="calls aten.randn_like.*not among"):
        encode(capture(Noise(), [torch.randn(2, 3)]))


def test_no_operator_of_a_file_writes_reads_files_or_draws():
    unwanted = ("rand", "bernoulli", "from_file", "save", "print", "dropout", "normal", "multinomial", "_out", "set_")
    assert not [name for name in OPERATORS if any(word in name.split(".")[1] for word in unwanted)]
    assert not any(getattr(op, "_schema", None) is not None and op._schema.is_mutable for op in OPERATORS.values())


RECORD = dict(
    inputs=[dict(dtype="float32", shape=[None, 3], least=[1, 3])],
    nodes=[
        ["aten.relu.default", [{"input": 0}], {}, 2],
        ["aten.linear.default", [{"node": 0}, {"tensor": "w"}], {}, 2],
    ],
    output={"tuple": [{"node": 1}]},
)
TENSORS = {"w": torch.ones(2, 3)}


def test_constants_are_computed_up_to_the_size_that_networks_have():
    """A slice to the end has a very large number in it, which is no size."""

    def network(rows):
        nodes = [
            ["aten.zeros.default", [[4, 1 << 13]], {}, 2],
            *rows,
            ["aten.add.Tensor", [{"input": 0}, {"node": 1}], {}, 2],
        ]
        spec = dict(dtype="float32", shape=[4, None], least=[4, 0])
        return GraphNetwork(dict(inputs=[spec], nodes=nodes, output={"node": 2}), {})

    x = torch.ones(4, 1 << 13)
    to_the_end = [{"node": 0}, 0, -1, 9223372036854775807]
    assert torch.equal(network([["aten.slice.Tensor", to_the_end, {}, 2]])(x), x)
    for rows in (
        [["aten.repeat.default", [{"node": 0}, [1 << 12, 1]], {}, 2]],
        [["aten.zeros.default", [[1 << 13] * 2], {}, 2]],
        [  # two tensors
            ["aten.unsqueeze.default", [{"node": 0}, 0], {}, 3],
            ["aten.adaptive_max_pool2d.default", [{"node": 1}, [1 << 13, 1 << 12]], {}, None],
        ],
    ):
        with pytest.raises(RebnnFileError, match="elements: no network has such a constant"):
            network(rows)


def test_all_constants_together_have_an_end_too():
    """A network of 40 rows would take 3 GB."""
    full = [["aten.full.default", [[1 << 24], k], {}, 1] for k in range(40)]
    spec = dict(dtype="float32", shape=[None], least=[0])
    with pytest.raises(RebnnFileError, match="elements in all"):
        GraphNetwork(dict(inputs=[spec], nodes=full, output=[{"node": k} for k in range(40)]), {})


def test_products_of_constants_that_take_long_are_left_for_the_call():
    rows = [["aten.full.default", [[3000, 3000], 0.5], {}, 2]]
    rows += [["aten.matmul.default", [{"node": k}, {"node": 0}], {}, 2] for k in range(300)]
    spec = dict(dtype="float32", shape=[None], least=[0])
    network = GraphNetwork(dict(inputs=[spec], nodes=rows, output={"tuple": [{"node": 300}, {"input": 0}]}), {})
    assert len(network._program()._steps) >= 299


def test_results_are_the_callers_to_write_to(packed):
    class Model(nn.Module):
        def forward(self, x):
            y = x * 2
            return {"y": y, "copy": y.clone(), "x": x.clone(), "grid": torch.arange(4) * 2.0}

    _, network = packed(Model(), torch.randn(2, 4))
    x = torch.randn(2, 4)
    before = x.clone()
    result = network(x)
    for key in ("copy", "x", "grid"):
        result[key] += 100
    assert torch.equal(x, before) and torch.equal(result["y"], 2 * x)
    assert network(x)["grid"].tolist() == [0, 2, 4, 6]


def test_a_record_by_hand():
    (y,) = GraphNetwork(RECORD, TENSORS)(torch.tensor([[1.0, -2.0, 3.0]]))
    assert y.tolist() == [[4.0, 4.0]]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("nodes", 0, 0), "os.system", "'os.system' is no operator"),
        (("nodes", 0, 0), "aten.relu_.default", "no operator"),
        (("nodes", 0, 1), [{"node": 0}], "malformed"),
        (("nodes", 0, 1), [{"node": -1}], "-1 is no place"),
        (("nodes", 0, 1), [{"node": True}], "True is no place"),
        (("nodes", 0, 1), [{"input": 7}], "malformed"),
        (("nodes", 1, 1), [{"node": 0}, {"tensor": "v"}], "names the tensor 'v'"),
        (("nodes", 0, 1), [{"code": "1"}], "malformed"),
        (("nodes", 0, 2), {"a b": 1}, "dict of names"),
        (("nodes", 0, 2), [], "dict of names"),
        (("nodes",), 7, "list of at most"),
        (("inputs", 0, "dtype"), "object", "an input of"),
        (("inputs", 0, "shape"), [-1, 3], "an input of"),
        (("output",), {"node": 2}, "malformed"),
    ],
)
def test_a_malformed_record_is_refused(path, value, message):
    record = copy.deepcopy(RECORD)
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RebnnFileError, match=message):
        decode(record, TENSORS)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text("abnode.", max_size=6) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["node", "input", "tensor", "tuple", "dict", "dtype", "memory_format"]), inner, max_size=2
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [("nodes",), ("nodes", 0), ("nodes", 1), ("nodes", 0, 1), ("nodes", 1, 2), ("output",), ("inputs",)]
    ),
    _VALUES,
)
def test_damaged_records_are_refused_or_decoded_and_nothing_else(path, value):
    record = copy.deepcopy(RECORD)
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        decode(record, TENSORS)
    except RebnnFileError:
        pass
