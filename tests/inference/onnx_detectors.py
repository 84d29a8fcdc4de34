"""ONNX files laid out as the YOLOs', which find what is bright: one box for each cell of 8 x 8 pixels."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELL = 8


def write_bright_detector(path, layout, batch=1, size=(64, 64), person_class=0, classes=3):
    """A file that takes (batch, 3, *size); the score of a cell's box is the cell's brightness.

    layout: yolov5, yolov8, end_to_end or yolov7 (rows of picture, box, class, score; batch 1).
    """
    height, width = size
    y, x = (values.reshape(-1) for values in np.mgrid[0 : height // CELL, 0 : width // CELL] * CELL)
    half, cells = CELL / 2, len(x)
    if layout in ("yolov5", "yolov8"):
        boxes = np.stack([x + half, y + half, np.full(cells, CELL), np.full(cells, CELL)])
    else:
        boxes = np.stack([x, y, x + CELL, y + CELL])
    rows = {"boxes": boxes, "ones": np.ones((1, cells)), "person": np.full((1, cells), person_class)}
    constants = [
        numpy_helper.from_array(value[None].astype(np.float32), name) for name, value in rows.items()
    ]
    constants.append(numpy_helper.from_array(np.array([0, 1, -1], dtype=np.int64), "shape"))
    constants.append(numpy_helper.from_array(np.zeros(1, dtype=np.float32), "zero"))
    scores = [f"class{k}" for k in range(classes)]
    parts = {
        "yolov8": ["b_boxes", *scores],
        "yolov5": ["b_boxes", "b_ones", *scores],
        "end_to_end": ["b_boxes", "bright", "b_person"],
        "yolov7": ["b_nothing", "b_boxes", "b_person", "bright"],
    }[layout]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["grey"], ["pooled"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        helper.make_node("Reshape", ["pooled", "shape"], ["bright"]),
        helper.make_node("Mul", ["bright", "zero"], ["b_nothing"]),
        *(helper.make_node("Add", [name, "b_nothing"], [f"b_{name}"]) for name in rows),
        *(
            helper.make_node("Identity", ["bright" if k == person_class else "b_nothing"], [f"class{k}"])
            for k in range(classes)
        ),
        helper.make_node("Concat", parts, ["rows"], axis=1),
    ]
    if layout == "yolov8":
        nodes.append(helper.make_node("Identity", ["rows"], ["output"]))
    elif layout == "yolov7":
        nodes.append(helper.make_node("Transpose", ["rows"], ["turned"], perm=[0, 2, 1]))
        nodes.append(helper.make_node("Squeeze", ["turned"], ["output"], axes=[0]))
    else:
        nodes.append(helper.make_node("Transpose", ["rows"], ["output"], perm=[0, 2, 1]))
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, height, width])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, str(path))
    return path
