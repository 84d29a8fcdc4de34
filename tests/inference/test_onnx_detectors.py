"""ONNX detectors that detect bright cells: layouts, batches, classes, NMS, and invalid files."""

import sys

import numpy as np
import pytest
from detector_configs import config

from vmae_det.inference.person_detectors import build_person_detector
from vmae_det.utils.errors import ConfigError, WeightsError

onnx = pytest.importorskip("onnx", reason="onnx writes the files of these tests")
pytest.importorskip("onnxruntime", reason="onnxruntime runs the files of these tests")

from onnx import TensorProto, helper  # noqa: E402
from onnx_detectors import padded, write_bright_detector, write_fixed_detector  # noqa: E402


def bright_frame(height=48, width=96):
    """Return a black frame with a white rectangle at x 24..48, y 12..24."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[12:24, 24:48] = 255
    return frame


def layout_of(layout):
    """Return the option for an ambiguous layout: without names, 8 columns can be 5 + 3 or 4 + 4."""
    return ("ONNX_LAYOUT", layout) if layout == "yolov5" else ()


def extent(boxes):
    return [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]


@pytest.mark.parametrize("layout", ["yolov5", "yolov8", "end_to_end", "yolov7"])
def test_layouts(tmp_path, layout):
    path = write_bright_detector(tmp_path / "net.onnx", layout)
    cfg = config("onnx", "WEIGHTS", str(path), "SCORE", 0.8, *layout_of(layout))
    # 48 x 96 is resized to 32 x 64 and centered on 64 x 64: two cells of 8 x 8 are in the rectangle.
    ((boxes, scores), (none, _)) = build_person_detector(cfg).detect(
        [bright_frame(), np.zeros((50, 40, 3), np.uint8)]
    )
    assert len(boxes) == 2
    np.testing.assert_allclose(extent(boxes), [24, 12, 48, 24])
    assert (scores > 0.9).all()
    assert len(none) == 0


@pytest.mark.parametrize("batch", [1, 2, "batch"])
def test_batch_sizes(tmp_path, batch):
    path = write_bright_detector(tmp_path / "net.onnx", "yolov8", batch)
    detector = build_person_detector(config("onnx", "WEIGHTS", str(path)))
    frames = [bright_frame(), bright_frame(96, 96), bright_frame()[:, ::-1]]
    extents = [extent(boxes) for boxes, _ in detector.detect(frames)]
    np.testing.assert_allclose(extents[0], [24, 12, 48, 24])
    np.testing.assert_allclose(extents[2], [48, 12, 72, 24])
    assert extents[1][:2] == [24, 12], "each frame has its own scale"


@pytest.mark.parametrize("layout", ["yolov5", "yolov8", "end_to_end", "yolov7"])
def test_only_persons_are_detected(tmp_path, layout):
    path = write_bright_detector(tmp_path / "net.onnx", layout, person_class=2)
    cfg = config("onnx", "WEIGHTS", str(path), *layout_of(layout))
    ((boxes, _),) = build_person_detector(cfg).detect([bright_frame()])
    assert len(boxes) == 0


def test_layout_in_the_config(tmp_path):
    path = write_bright_detector(tmp_path / "net.onnx", "yolov5", classes=1)
    detector = build_person_detector(config("onnx", "WEIGHTS", str(path), "ONNX_LAYOUT", "yolov5"))
    np.testing.assert_allclose(extent(detector.detect([bright_frame()])[0][0]), [24, 12, 48, 24])
    other = write_bright_detector(tmp_path / "other.onnx", "yolov8")
    wrong = build_person_detector(config("onnx", "WEIGHTS", str(other), "ONNX_LAYOUT", "end_to_end"))
    with pytest.raises(WeightsError, match=r"other.onnx: its output is output \(1, 7, 64\)"):
        wrong.detect([bright_frame()])


def test_nms(tmp_path):
    """Adjacent cells of a white frame do not overlap and are all kept; of overlapping boxes one is kept."""
    path = write_bright_detector(tmp_path / "net.onnx", "yolov8")
    white = np.full((64, 64, 3), 255, np.uint8)
    cfg = config("onnx", "WEIGHTS", str(path), "MAX_PEOPLE", 100)
    ((boxes, _),) = build_person_detector(cfg).detect([white])
    assert len(boxes) == 64
    rows = np.array([[10, 10, 8, 8, 0.85], [11, 10, 8, 8, 0.95], [40, 40, 8, 8, 0.9]])
    path = write_fixed_detector(tmp_path / "fixed.onnx", {"output": padded(rows, 84)}, shape=(1, 3, 64, 64))
    ((kept, scores),) = build_person_detector(config("onnx", "WEIGHTS", str(path))).detect([white])
    assert kept.tolist() == [[7, 6, 15, 14], [36, 36, 44, 44]]
    assert scores.tolist() == pytest.approx([0.95, 0.9])


def test_invalid_files(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    with pytest.raises(ConfigError, match=r"PERSON_DETECTOR.WEIGHTS: empty"):
        build_person_detector(config("onnx"))
    with pytest.raises(WeightsError, match=r"net.onnx: no such"):
        build_person_detector(config("onnx", "WEIGHTS", str(path)))
    path.write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"net.onnx: not an ONNX model"):
        build_person_detector(config("onnx", "WEIGHTS", str(path)))
    gray = helper.make_tensor_value_info("gray", TensorProto.FLOAT, [1, 1, 8, 8])
    graph = helper.make_graph([helper.make_node("Identity", ["gray"], ["out"])], "gray", [gray], [])
    graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1, 8, 8]))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), str(path))
    with pytest.raises(
        WeightsError, match=r"expected one input of images, .*got tensor\(float\) \[1, 1, 8, 8\]"
    ):
        build_person_detector(config("onnx", "WEIGHTS", str(path)))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"vmae_det\[onnx\]"):
        build_person_detector(config("onnx", "WEIGHTS", str(path)))
