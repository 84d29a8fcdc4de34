"""ONNX detectors that find a person and a car in every picture, in the layouts of many exporters."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 640
FRAME = np.zeros((480, 640, 3), np.uint8)  # lies at y 80 to 560 of the square picture
PERSON = [64, 120, 144, 360]  # xyxy pixels of the frame
COCO = {0: "person", 1: "bicycle", 2: "car", **{k: f"thing {k}" for k in range(3, 80)}}

_PERSON = np.array([64, 200, 144, 440.0])  # of the square picture
_CAR = np.array([100, 100, 220, 180.0])


def boxes(form="corners", normalised=False):
    """Of the person and the car, (2, 4)."""
    x1, y1, x2, y2 = np.stack([_PERSON, _CAR], axis=1)
    columns = (x1, y1, x2, y2) if form == "corners" else ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return np.stack(columns, axis=1) / (SIDE if normalised else 1)


def class_scores(classes=80, person=0, car=2):
    """(2, classes): 0.9 for the person, 0.95 for the car."""
    scores = np.zeros((2, classes))
    scores[0, person] = 0.9
    scores[1, car] = 0.95
    return scores


def logits(scores):
    """Whose sigmoid the scores are."""
    clipped = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


def filled(rows, count, value=0.0):
    """One picture's rows (1, count, columns), most of which hold nothing."""
    rest = np.full((count - len(rows), rows.shape[1]), value)
    return np.concatenate([rows, rest])[None]


def numbered(form="corners", normalised=False, person=0, car=2, extra=0, count=300):
    """Rows of box, score and class, as exports with overlaps removed have; (1, count, 6 + extra)."""
    found = np.array([[0.9, person], [0.95, car]])
    return filled(np.concatenate([boxes(form, normalised), found, np.full((2, extra), 0.1)], axis=1), count)


def by_class(
    form="centre",
    normalised=False,
    count=8400,
    objectness=None,
    extra=(),
    turned=False,
    scores=None,
    rest=0.0,
):
    """Rows of box, perhaps objectness, and a score for each class, which is `rest` where there is nothing."""
    scores = class_scores() if scores is None else scores
    lead = [boxes(form, normalised)] + ([] if objectness is None else [np.full((2, 1), objectness)])
    more = np.tile(np.asarray(extra, dtype=float), (2, 1)).reshape(2, -1)
    rows = filled(np.concatenate([*lead, scores, more], axis=1), count)
    rows[:, 2:, 4:] = rest
    if objectness == 1:
        rows[..., 4] = 1
    return rows.transpose(0, 2, 1) if turned else rows


def write_fixed_detector(path, outputs, metadata=None, shape=(1, 3, SIDE, SIDE)):
    """A file that gives `outputs`, arrays by name, whatever it is shown."""
    graph = helper.make_graph(
        [helper.make_node("Constant", [], [name], value=_tensor(values)) for name, values in outputs.items()],
        "fixed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, _tensor(values).data_type, None)
            for name, values in outputs.items()
        ],
    )
    return _save(graph, path, metadata)


def write_red_detector(path, kind="float", channels_last=False):
    """A file whose only box, in the yolov8 layout, has the mean of the red channel as score."""
    types = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
    names = iter(f"value{k}" for k in range(9))
    nodes, last = [], "images"

    def add(operator, *inputs, **attributes):
        nonlocal last
        output = next(names)
        nodes.append(helper.make_node(operator, [last, *inputs], [output], **attributes))
        last = output

    add("Cast", to=TensorProto.FLOAT)
    if channels_last:
        add("Transpose", perm=[0, 3, 1, 2])
    if kind == "uint8":
        add("Div", "full")
    add("ReduceMean", axes=[2, 3], keepdims=1)  # (batch, 3, 1, 1)
    add("Slice", "zero", "one", "one")
    add("Reshape", "shape")  # (batch, 1, 1)
    add("Expand", "eight")
    nodes.append(helper.make_node("Concat", ["box", last], ["output"], axis=1))
    used = {name for node in nodes for name in node.input}
    constants = {
        "full": np.array(255, np.float32),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "eight": np.array([1, 1, 8], np.int64),
        "shape": np.array([-1, 1, 1], np.int64),
        "box": np.tile(np.array([40, 30, 20, 10], np.float32)[None, :, None], 8),
    }
    shape = (1, 64, 64, 3) if channels_last else (1, 3, 64, 64)
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("images", types[kind], shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 5, 8])],
        [numpy_helper.from_array(values, name) for name, values in constants.items() if name in used],
    )
    return _save(graph, path)


def _tensor(values):
    values = np.asarray(values)
    return numpy_helper.from_array(values.astype(np.float32) if values.dtype.kind == "f" else values)


def _save(graph, path, metadata=None):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in (metadata or {}).items()})
    onnx.save(model, str(path))
    return path
