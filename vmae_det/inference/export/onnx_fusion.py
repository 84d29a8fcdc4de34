"""Replaces parts of an exported graph by fused operators of onnxruntime, when the file is opened.

Exported files have standard operators only, so that other programs can run them. Attention is MatMul,
Softmax, MatMul, which keep the N x N scores of all heads in memory. `MultiHeadAttention` of onnxruntime
computes the same in blocks. GELU is five operators.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from vmae_det.inference.onnx_session import import_onnx_packages

_DOMAIN = "com.microsoft"


def fuse(model: Any) -> int:
    """Replace attention and GELU in an onnx.ModelProto, in place; return the number of replacements."""
    count = fuse_attention(model.graph) + fuse_gelu(model.graph)
    if count and _DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.add(domain=_DOMAIN, version=1)
    return count


def fuse_attention(graph: Any) -> int:
    """Replace softmax(a b) v by MultiHeadAttention; return the number of replacements.

    Only attention of the backbone is replaced: tensors (clips, heads, N, C) with as many clips as the first
    input, `video`. What does not match stays as it is, such as attention whose weights have a second use.
    """
    shapes = {entry.name: _shape(entry) for entry in [*graph.value_info, *graph.input]}
    clips = shapes[graph.input[0].name][:1]
    producers, consumers = _links(graph)
    new: dict[str, list[Any]] = {}  # nodes by the output that they compute
    removed: set[str] = set()
    for softmax in graph.node:
        if softmax.op_type != "Softmax" or len(consumers[softmax.output[0]]) != 1:
            continue
        scores, result = producers.get(softmax.input[0]), consumers[softmax.output[0]][0]
        shape, value_shape = shapes.get(result.output[0], ()), shapes.get(result.input[-1], ())
        if (
            scores is not None
            and scores.op_type == result.op_type == "MatMul"
            and result.input[0] == softmax.output[0]
            and len(consumers[scores.output[0]]) == 1
            and all(attribute.i in (-1, 3) for attribute in softmax.attribute if attribute.name == "axis")
            and len(shape) == len(value_shape) == 4
            and shape[:1] == value_shape[:1] == clips
            and all(isinstance(size, int) for size in (shape[1], shape[3]))
        ):
            new[result.output[0]] = _attention(graph, *scores.input, result, heads=shape[1], dim=shape[3])
            removed |= {scores.output[0], softmax.output[0]}
    _replace(graph, new, removed)
    return len(new)


def fuse_gelu(graph: Any) -> int:
    """Replace x * (0.5 * (1 + erf(x / sqrt(2)))) by Gelu; return the number of replacements."""
    (onnx,) = import_onnx_packages("onnx")
    constants = {e.name: float(onnx.numpy_helper.to_array(e)) for e in graph.initializer if not e.dims}
    producers, consumers = _links(graph)
    new: dict[str, list[Any]] = {}
    removed: set[str] = set()
    for erf in graph.node:
        divide = producers.get(erf.input[0]) if erf.op_type == "Erf" else None
        if divide is None or divide.op_type != "Div":
            continue
        x, chain, others = divide.input[0], [divide, erf], [divide.input[1]]
        for op_type in ("Add", "Mul", "Mul"):
            users, value = consumers[chain[-1].output[0]], chain[-1].output[0]
            if len(users) != 1 or users[0].op_type != op_type:
                break
            chain += users
            others += [name for name in users[0].input if name != value]
        values = [constants.get(name, 0.0) for name in others[:3]]
        if len(chain) == 5 and np.allclose(values, (2**0.5, 1, 0.5)) and others[3:] == [x]:
            result = chain[-1].output[0]
            new[result] = [onnx.helper.make_node("Gelu", [x], [result], domain=_DOMAIN)]
            removed |= {node.output[0] for node in chain[:-1]}
    _replace(graph, new, removed)
    return len(new)


def _attention(graph: Any, query: str, key: str, result: Any, heads: int, dim: int) -> list[Any]:
    """Return the nodes that compute `result`.

    Args:
        query: name of the scaled queries (clips, heads, N, C).
        key: name of the scaled and transposed keys (clips, heads, C, M).
    """
    (onnx,) = import_onnx_packages("onnx")
    node, name = onnx.helper.make_node, (result.output[0] + ".{}").format
    for suffix, shape in (("joined_shape", [0, 0, heads * dim]), ("split_shape", [0, 0, heads, dim])):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), name(suffix)))
    fused = node(
        "MultiHeadAttention",
        [name("query"), name("key"), result.input[1]],
        [name("joined")],
        domain=_DOMAIN,
        num_heads=heads,
        scale=1.0,
    )
    return [
        node("Transpose", [query], [name("rows")], perm=[0, 2, 1, 3]),  # (clips, N, heads, C)
        node("Reshape", [name("rows"), name("joined_shape")], [name("query")]),  # (clips, N, heads C)
        node("Transpose", [key], [name("key")], perm=[0, 1, 3, 2]),  # (clips, heads, M, C)
        fused,  # (clips, N, heads C)
        node("Reshape", [name("joined"), name("split_shape")], [name("split")]),  # (clips, N, heads, C)
        node("Transpose", [name("split")], [result.output[0]], perm=[0, 2, 1, 3]),
    ]


def _links(graph: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the node that computes each value, and the nodes that use it."""
    producers = {name: node for node in graph.node for name in node.output}
    consumers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    return producers, consumers


def _replace(graph: Any, new: dict[str, list[Any]], removed: set[str]) -> None:
    nodes = [node for node in graph.node if node.output[0] not in removed]
    nodes = [node for old in nodes for node in new.get(old.output[0], [old])]
    del graph.node[:]
    graph.node.extend(nodes)


def _shape(entry: Any) -> tuple[int | str, ...]:
    """Return the shape of a value: a number for each fixed size, a name for the others."""
    return tuple(size.dim_param or size.dim_value for size in entry.type.tensor_type.shape.dim)
