"""Helpers: write ONNX detectors in the layouts of many exporters.

`write_bright_detector` detects bright cells. `write_fixed_detector` returns the same outputs for every image;
`boxes`, `numbered`, `by_class` and others make outputs with a person and a car.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# ---------------------------------------------------------------- detectors of bright cells

CELL = 8


def write_bright_detector(path, layout, batch=1, size=(64, 64), person_class=0, classes=3):
    """Write a file that takes (batch, 3, *size); it has a box per cell, whose score is the cell's brightness.

    layout: yolov5, yolov8, end_to_end or yolov7 (rows of image, box, class, score; batch 1).
    """
    height, width = size
    y, x = (values.reshape(-1) for values in np.mgrid[0 : height // CELL, 0 : width // CELL] * CELL)
    half, cells = CELL / 2, len(x)
    if layout in ("yolov5", "yolov8"):
        cell_boxes = np.stack([x + half, y + half, np.full(cells, CELL), np.full(cells, CELL)])
    else:
        cell_boxes = np.stack([x, y, x + CELL, y + CELL])
    rows = {"boxes": cell_boxes, "ones": np.ones((1, cells)), "person": np.full((1, cells), person_class)}
    constants = [
        numpy_helper.from_array(value[None].astype(np.float32), name) for name, value in rows.items()
    ]
    constants.append(numpy_helper.from_array(np.array([0, 1, -1], dtype=np.int64), "shape"))
    constants.append(numpy_helper.from_array(np.zeros(1, dtype=np.float32), "zero"))
    scores = [f"class{k}" for k in range(classes)]
    columns = {
        "yolov8": ["b_boxes", *scores],
        "yolov5": ["b_boxes", "b_ones", *scores],
        "end_to_end": ["b_boxes", "bright", "b_person"],
        "yolov7": ["b_nothing", "b_boxes", "b_person", "bright"],
    }[layout]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["gray"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["gray"], ["pooled"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        helper.make_node("Reshape", ["pooled", "shape"], ["bright"]),
        helper.make_node("Mul", ["bright", "zero"], ["b_nothing"]),
        *(helper.make_node("Add", [name, "b_nothing"], [f"b_{name}"]) for name in rows),
        *(
            helper.make_node("Identity", ["bright" if k == person_class else "b_nothing"], [f"class{k}"])
            for k in range(classes)
        ),
        helper.make_node("Concat", columns, ["rows"], axis=1),
    ]
    if layout == "yolov8":
        nodes.append(helper.make_node("Identity", ["rows"], ["output"]))
    elif layout == "yolov7":
        nodes.append(helper.make_node("Transpose", ["rows"], ["transposed"], perm=[0, 2, 1]))
        nodes.append(helper.make_node("Squeeze", ["transposed"], ["output"], axes=[0]))
    else:
        nodes.append(helper.make_node("Transpose", ["rows"], ["output"], perm=[0, 2, 1]))
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        constants,
    )
    return _save(graph, path)


# ---------------------------------------------------------------- detectors with fixed outputs

SIDE = 640
FRAME = np.zeros((480, 640, 3), np.uint8)  # is at y 80 to 560 of the square image
PERSON = [64, 120, 144, 360]  # xyxy pixels of the frame
COCO = {0: "person", 1: "bicycle", 2: "car", **{k: f"thing {k}" for k in range(3, 80)}}

_PERSON = np.array([64, 200, 144, 440.0])  # xyxy pixels of the square image
_CAR = np.array([100, 100, 220, 180.0])


def boxes(form="corners", normalized=False):
    """Return the boxes of the person and the car, (2, 4)."""
    x1, y1, x2, y2 = np.stack([_PERSON, _CAR], axis=1)
    columns = (x1, y1, x2, y2) if form == "corners" else ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return np.stack(columns, axis=1) / (SIDE if normalized else 1)


def class_scores(classes=80, person=0, car=2):
    """Return (2, classes): 0.9 for the person, 0.95 for the car."""
    scores = np.zeros((2, classes))
    scores[0, person] = 0.9
    scores[1, car] = 0.95
    return scores


def logits(scores):
    """Return the logits of scores."""
    clipped = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


def padded(rows, count, value=0.0):
    """Return the rows of one image padded to (1, count, columns)."""
    padding = np.full((count - len(rows), rows.shape[1]), value)
    return np.concatenate([rows, padding])[None]


def numbered(form="corners", normalized=False, person=0, car=2, extra=0, count=300):
    """Return rows of box, score and class, as after NMS; (1, count, 6 + extra)."""
    scores_and_classes = np.array([[0.9, person], [0.95, car]])
    rows = np.concatenate([boxes(form, normalized), scores_and_classes, np.full((2, extra), 0.1)], axis=1)
    return padded(rows, count)


def by_class(
    form="center",
    normalized=False,
    count=8400,
    objectness=None,
    extra=(),
    transposed=False,
    scores=None,
    padding=0.0,
):
    """Return rows of box, optional objectness, and class scores, which are `padding` in unused rows."""
    scores = class_scores() if scores is None else scores
    leading = [boxes(form, normalized)] + ([] if objectness is None else [np.full((2, 1), objectness)])
    trailing = np.tile(np.asarray(extra, dtype=float), (2, 1)).reshape(2, -1)
    rows = padded(np.concatenate([*leading, scores, trailing], axis=1), count)
    rows[:, 2:, 4:] = padding
    if objectness == 1:
        rows[..., 4] = 1
    return rows.transpose(0, 2, 1) if transposed else rows


def write_fixed_detector(path, outputs, metadata=None, shape=(1, 3, SIDE, SIDE)):
    """Write a file that returns `outputs`, arrays by name, for every input."""
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
    """Write a file with one box, in the yolov8 layout, whose score is the mean of the red channel."""
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
