"""Fused operators of onnxruntime replace attention and GELU when a file is opened; the scores stay."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

from vmae_det.inference.export.onnx_fusion import fuse  # noqa: E402

FLOAT = TensorProto.FLOAT


def block(second_use=False, half=0.5):
    """Return a model of attention and GELU as they are exported, for (clips, 2, N, 4)."""
    clips, number = "clips", "N"
    nodes = [
        helper.make_node("Transpose", ["video"], ["keys"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["video", "keys"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("Mul", ["video", "video"], ["values"]),
        helper.make_node("MatMul", ["weights", "values"], ["x"]),
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["sum"]),
        helper.make_node("Mul", ["half", "sum"], ["factor"]),
        helper.make_node("Mul", ["x", "factor"], ["result"]),
    ]
    outputs = [helper.make_tensor_value_info("result", FLOAT, None)]
    if second_use:
        nodes.append(helper.make_node("ReduceMax", ["weights"], ["highest"], keepdims=0))
        outputs.append(helper.make_tensor_value_info("highest", FLOAT, None))
    constants = {"root": 2**0.5, "one": 1.0, "half": half}
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("video", FLOAT, [clips, 2, number, 4])],
        outputs,
        [helper.make_tensor(name, FLOAT, [], [value]) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info(n, FLOAT, [clips, 2, number, 4]) for n in ("values", "x")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model


def operators(model):
    return [node.op_type for node in model.graph.node]


def run(model, video):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"video": video})[0]


@pytest.mark.parametrize("clips", [1, 3])
def test_attention_and_gelu(clips):
    video = np.random.default_rng(0).normal(size=(clips, 2, 5, 4)).astype(np.float32)
    model = block()
    expected = run(model, video)
    assert fuse(model) == 2
    assert " ".join(operators(model)) == (
        "Transpose Mul Transpose Reshape Transpose MultiHeadAttention Reshape Transpose Gelu"
    )
    np.testing.assert_allclose(run(model, video), expected, atol=1e-6)


def test_weights_with_a_second_use_and_other_constants_stay():
    model = block(second_use=True, half=0.25)
    before = operators(model)
    assert fuse(model) == 0
    assert operators(model) == before
