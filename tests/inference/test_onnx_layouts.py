"""ONNX detectors in the layouts of many exporters: only the person is detected, or the file is refused."""

from pathlib import Path

import av
import numpy as np
import pytest
from detector_configs import config

from vmae_det.inference.person_detectors import build_person_detector
from vmae_det.utils.errors import WeightsError

pytest.importorskip("onnx", reason="onnx writes the files of these tests")
pytest.importorskip("onnxruntime", reason="onnxruntime runs the files of these tests")

from onnx_detectors import (
    COCO,
    FRAME,
    PERSON,
    boxes,
    by_class,
    class_scores,
    logits,
    numbered,
    padded,
    write_fixed_detector,
    write_red_detector,
)

CASES = Path(__file__).parents[3] / "shared/cases/onnx"
HELMET_FIRST = {0: "helmet", 1: "person"}


def people(path, outputs, metadata=None, *overrides):
    outputs = outputs if isinstance(outputs, dict) else {"output0": outputs}
    write_fixed_detector(path, outputs, metadata)
    detector = build_person_detector(config("onnx", "WEIGHTS", str(path), "SCORE", 0.5, *overrides))
    ((found, scores),) = detector.detect([FRAME])
    return found, scores


def detr(classes, person, car, no_object=None):
    """Return class logits (1, 100, classes) for a softmax; most rows are `no_object`."""
    scores = np.full((100, classes), 1e-6)
    scores[2:, no_object] = 1
    scores[0, [person, no_object]] = 0.9, 0.1
    scores[1, [car, no_object]] = 0.95, 0.05
    return np.log(scores)[None]


SUPPORTED = {
    "v8": (by_class(transposed=True), {}),
    "v8, transposed": (by_class(), {}),
    "v8, fractions": (by_class(normalized=True, transposed=True), {}),
    "v8, corners": (by_class("corners", transposed=True), {}),
    "v8, logits": (by_class(scores=logits(class_scores()), padding=-9.0, transposed=True), {}),
    "v8, person last": (
        by_class(scores=class_scores(3, 2, 0), transposed=True),
        {"names": {0: "car", 1: "dog", 2: "Person"}},
    ),
    "v8, labels of VisDrone": (
        by_class(scores=class_scores(3, 1, 2), transposed=True),
        {"names": ["pedestrian", "people", "car"]},
    ),
    "v8, COCO's 91 classes": (by_class(scores=class_scores(91, 1, 3), transposed=True), {}),
    "v8, COCO's ids as keys": (
        by_class(scores=class_scores(91, 1, 3), transposed=True),
        {"names": {k + 1: name for k, name in COCO.items()} | {90: "toothbrush"}},
    ),
    "v8 that segments": (
        {"output0": by_class(extra=[-0.5] * 32, transposed=True), "output1": np.zeros((1, 32, 160, 160))},
        {},
    ),
    "v8 that segments, one output": (
        by_class(extra=[-0.5] * 32, transposed=True),
        {"task": "segment", "names": COCO},
    ),
    "v8 of poses": (
        by_class(extra=[70, 210, 0.9] * 17, scores=np.array([[0.9], [0.1]]), transposed=True),
        {},
    ),
    "v8 of hands and feet": (
        by_class(extra=[70, 210] * 4, scores=class_scores(2, 0, 1), transposed=True),
        {"task": "pose", "names": {0: "person", 1: "dog"}, "kpt_shape": [4, 2]},
    ),
    "v5": (by_class(objectness=1.0, count=25200), {}),
    "v5 of one class": (by_class(objectness=1.0, count=25200, scores=np.array([[0.9], [0.2]])), {}),
    "v5 of few classes": (by_class(objectness=1.0, count=25200, scores=class_scores(3)), {}),
    "v5 with names": (
        by_class(objectness=1.0, count=999, scores=class_scores(2, 1, 0)),
        {"names": ["helmet", "person"]},
    ),
    "v6": (by_class(objectness=1.0), {}),
    "after NMS": (numbered(), {}),
    "after NMS, fractions": (numbered(normalized=True), {}),
    "after NMS, centers": (numbered("center"), {}),
    "after NMS, few rows": (numbered(count=2), {}),
    "after NMS, padded with -1": (padded(numbered(count=2)[0], 300, -1.0), {}),
    "after NMS, names": (numbered(person=1, car=0), {"names": HELMET_FIRST, "end2end": True}),
    "masks, after NMS": (numbered(extra=32), {}),
    "poses, after NMS": (numbered(extra=51), {}),
    "RT-DETR": (numbered("center", normalized=True), {}),
    "RT-DETR, older": (by_class(normalized=True, count=300), {}),
    "RT-DETR, older, two classes": (
        by_class(normalized=True, count=300, scores=class_scores(2, 1, 0)),
        {"names": HELMET_FIRST},
    ),
    "v7, after NMS": (
        np.concatenate([np.zeros((2, 1)), boxes(), [[0, 0.9], [2, 0.95]]], axis=1),
        {},
    ),
    "boxes and logits": (
        {
            "logits": padded(logits(class_scores()), 300, -9.0),
            "pred_boxes": padded(boxes("center", True), 300),
        },
        {},
    ),
    "boxes and logits of COCO's 91 classes": (
        {
            "dets": padded(boxes("center", True), 300),
            "labels": padded(logits(class_scores(91, 1, 3)), 300, -9.0),
        },
        {},
    ),
    "DETR": ({"logits": detr(92, 1, 3, 91), "pred_boxes": padded(boxes("center", True), 100)}, {}),
    "DETR of one class": (
        {"logits": detr(2, 0, 1, 1), "pred_boxes": padded(boxes("center", True), 100)},
        {"names": ["person"]},
    ),
    "SSD, background first": (
        {"scores": np.exp(detr(81, 1, 3, 0)), "boxes": padded(boxes(normalized=True), 100)},
        {},
    ),
    "torchvision": ({"boxes": boxes(), "labels": np.array([1, 3]), "scores": np.array([0.9, 0.95])}, {}),
    "TensorFlow's Object Detection API": (
        {
            "detection_boxes:0": padded(boxes(normalized=True)[:, [1, 0, 3, 2]], 100),
            "detection_classes:0": np.array([[1.0, 3.0] + [1.0] * 98]),
            "detection_scores:0": np.array([[0.9, 0.95] + [0.0] * 98]),
            "num_detections:0": np.array([100.0]),
        },
        {},
    ),
    "labels": (
        {
            "num_dets": np.array([[2]]),
            "det_boxes": padded(boxes(), 100),
            "det_scores": np.array([[0.9, 0.95] + [0.7] * 98]),
            "det_classes": np.array([[0, 2] + [0] * 98], dtype=np.int32),
        },
        {},
    ),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_person_is_detected_in_every_layout(tmp_path, name):
    outputs, metadata = SUPPORTED[name]
    found, scores = people(tmp_path / "net.onnx", outputs, metadata)
    np.testing.assert_allclose(found, [PERSON], atol=1e-3)
    np.testing.assert_allclose(scores, [0.9], atol=1e-3)


@pytest.mark.parametrize(
    ("outputs", "metadata"),
    [
        (by_class(scores=class_scores(2, 0, 0), transposed=True), {"names": HELMET_FIRST}),
        (numbered(person=0, car=0), {"names": HELMET_FIRST}),
        (
            by_class(scores=np.array([[0.9, 0.95], [0, 0.9]]), transposed=True),
            {"names": ["person", "statue"]},
        ),
        (numbered(person=7), {"names": COCO}),
        (np.zeros((1, 300, 6)), {}),
        (np.zeros((1, 0, 6)), {}),
        (np.zeros((0, 7)), {}),
    ],
)
def test_other_classes_are_not_persons(tmp_path, outputs, metadata):
    found, _ = people(tmp_path / "net.onnx", outputs, metadata)
    assert len(found) == 0


def raw_grid(count=8400):
    """Return rows of YOLOX before decoding: offsets in cells, and logarithms of sizes."""
    rows = np.concatenate([[[0.25, 0, 0.9163, 2.0149, 1]], np.eye(1, 80)], axis=1)
    return padded(rows, count)


UNSUPPORTED = {
    "YOLOX": (raw_grid(), {}, "as that of YOLOX"),
    "YOLOX, decoded": (by_class(objectness=0.9), {}, "as that of YOLOX"),
    "YOLOX in another grid": (
        raw_grid(777),
        {},
        "such as 0.25, 0, 0.9163, 2.015, are neither corners nor center",
    ),
    "v8 without a grid": (
        by_class(transposed=True) * np.where(np.arange(84) < 4, -0.01, 1)[None, :, None],
        {},
        "neither corners nor center and size",
    ),
    "no person": (
        numbered(),
        {"names": {0: "helmet", 1: "vest"}},
        "none of its 2 classes is a person: helmet, vest",
    ),
    "a classifier": (np.zeros((1, 1000)), {"task": "classify"}, "metadata: task 'classify'"),
    "oriented boxes": (by_class(transposed=True), {"task": "obb", "names": COCO}, "metadata: task 'obb'"),
    "more classes than names": (
        by_class(transposed=True),
        {"names": {0: "person", 1: "helmet"}},
        r"\(1, 84, 8400\) for 2 named classes",
    ),
    "a class without a name": (numbered(car=5), {"names": HELMET_FIRST}, "predicts classes 0 to 5.*names 2"),
    "names that are none": (
        numbered(),
        {"names": "person and others"},
        "names = 'person and others'; expected a map",
    ),
    "nested names": (numbered(), {"names": "[" * 9999}, r"names = '\[\["),
    "names by numbers of no class": (
        numbered(),
        {"names": {-1: "person"}},
        "expected a name for each class id",
    ),
    "size": (numbered(), {"imgsz": "[0, 640]"}, r"imgsz = '\[0, 640\]'"),
    "five or four columns first": (
        by_class(objectness=1.0, count=64, scores=class_scores(3)),
        {},
        "of YOLOv5 .* or of v8",
    ),
    "corners or center": (
        padded(np.array([[0.5, 0.4, 0.6, 0.45, 0.9, 0]]), 300),
        {},
        "can be corners or center and size",
    ),
    "no scores": (by_class(transposed=True) * 500, {}, r"its output is output0 \(1, 84, 8400\)"),
    "rows of seven others": (
        np.array([[0, 0.9, 1, 10, 20.5, 30.5, 40]]),
        {},
        "expected image index, corners, class and score",
    ),
    "not finite": (numbered() * np.nan, {}, "'output0' contains NaN or infinity"),
    "torchvision without background": (
        {"boxes": boxes(), "labels": np.array([0, 2]), "scores": np.array([0.9, 0.95])},
        {},
        "its output is boxes",
    ),
    "two outputs of boxes": ({"a": numbered(), "b": numbered()}, {}, r"a \(1, 300, 6\), b \(1, 300, 6\)"),
    "no softmax": (
        {"logits": np.full((1, 100, 92), -5.0), "pred_boxes": padded(boxes("center", True), 100)},
        {},
        "its output is logits",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_files_are_refused(tmp_path, name):
    outputs, metadata, problem = UNSUPPORTED[name]
    with pytest.raises(WeightsError, match=rf"net.onnx: .*{problem}"):
        people(tmp_path / "net.onnx", outputs, metadata)


def test_layout_in_the_config_resolves_ambiguity(tmp_path):
    rows = padded(np.array([[0.5, 0.4, 0.6, 0.45, 0.9, 0]]), 300)
    found, _ = people(tmp_path / "net.onnx", rows, {}, "ONNX_LAYOUT", "end_to_end")
    np.testing.assert_allclose(found, [[320, 176, 384, 208]])
    found, _ = people(tmp_path / "net.onnx", rows, {}, "ONNX_LAYOUT", "yolov8")
    np.testing.assert_allclose(found, [[128, 32, 512, 320]], atol=1)


@pytest.mark.parametrize("classes", [1, 3])
def test_assumed_person_class_is_logged_once(tmp_path, caplog, classes):
    scores = class_scores(3)[:, :classes]
    path = write_fixed_detector(tmp_path / "net.onnx", {"output0": by_class(scores=scores, transposed=True)})
    detector = build_person_detector(config("onnx", "WEIGHTS", str(path)))
    for _ in range(2):
        detector.detect([FRAME])
    assert caplog.text.count(f"has no class names; assuming that class 0 of {classes} is the person") == 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", ["float", "float16", "uint8"])
def test_input_types_and_channel_orders(tmp_path, kind, channels_last):
    path = write_red_detector(tmp_path / "net.onnx", kind, channels_last)
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[..., 0] = 204
    ((found, scores),) = build_person_detector(config("onnx", "WEIGHTS", str(path), "SCORE", 0.5)).detect(
        [frame]
    )
    np.testing.assert_allclose(scores, [0.8], atol=1e-3)
    np.testing.assert_allclose(found, [[30, 25, 50, 35]])


@pytest.mark.parametrize(
    ("metadata", "side", "size"),
    [
        ({}, 0, (640, 640)),
        ({"imgsz": [320, 416]}, 0, (320, 416)),
        ({"imgsz": "320", "stride": 32}, 0, (320, 320)),
        ({"imgsz": [320, 416], "stride": 32}, 500, (512, 512)),
    ],
)
def test_image_size_of_files_with_dynamic_size(tmp_path, metadata, side, size):
    shape = ("batch", 3, "height", "width")
    path = write_fixed_detector(tmp_path / "net.onnx", {"output0": numbered()}, metadata, shape)
    assert build_person_detector(config("onnx", "WEIGHTS", str(path), "SHORT_SIDE", side)).size == size


@pytest.mark.parametrize("path", sorted(CASES.glob("*.onnx")), ids=lambda path: path.stem)
def test_files_written_by_exporters(path):
    """The person is at 0.1, 0.25, 0.225, 0.75 of the frame; class 0 of `hands` is a helmet."""
    frame = next(av.open(str(CASES / "fig.mp4")).decode(video=0)).to_ndarray(format="rgb24")
    detector = build_person_detector(config("onnx", "WEIGHTS", str(path), "SCORE", 0.5))
    if path.stem == "yolox":
        with pytest.raises(WeightsError, match="YOLOX is not supported"):
            detector.detect([frame])
        return
    ((found, scores),) = detector.detect([frame])
    expected = [] if path.stem == "hands" else [[0.1, 0.25, 0.225, 0.75]]
    np.testing.assert_allclose(found / [640, 480, 640, 480], np.reshape(expected, (-1, 4)), atol=2e-3)
    np.testing.assert_allclose(scores, [0.9] * len(expected), atol=1e-3)
