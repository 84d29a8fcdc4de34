import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vmae_det.evaluation.person_ap import evaluate_person_boxes
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.errors import DataError

SHARED = Path(__file__).parents[3] / "shared"

BOXES = {("a", 902.0): [[0.1, 0.2, 0.5, 0.9], [0.25, 0.0, 1.0, 1.0]], ("b", 903.0): [[0.0, 0.0, 0.5, 0.5]]}
SCORES = {("a", 902.0): [0.9, 0.5], ("b", 903.0): [0.75]}
IMAGES = [
    {"id": 9020902, "movie": "a", "timestamp": 902, "width": 640, "height": 360},
    {"id": 9030903, "movie": "b", "timestamp": 903, "width": 200, "height": 100},
]


def coco_entries():
    entries = []
    for image in IMAGES:
        key = (image["movie"], float(image["timestamp"]))
        width, height = image["width"], image["height"]
        for (x1, y1, x2, y2), score in zip(BOXES[key], SCORES[key]):
            box = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
            entries.append({"image_id": image["id"], "category_id": 1, "bbox": box, "score": score})
    return entries


def write_csv(path, label):
    with path.open("w") as file:
        for (video, time), boxes in BOXES.items():
            for box, score in zip(boxes, SCORES[video, time]):
                file.write(",".join([video, f"{time:04.0f}", *map(str, box), *label, str(score)]) + "\n")
    return path


def write_pickle(path, protocol=4):
    table = {f"{v},{t:04.0f}": np.column_stack([BOXES[v, t], SCORES[v, t]]) for v, t in BOXES}
    path.write_bytes(pickle.dumps(table, protocol=protocol))
    return path


def assert_the_boxes(persons):
    for (video, time), boxes in BOXES.items():
        found, scores = persons.at(video, time)
        np.testing.assert_allclose(found, boxes, atol=1e-12)
        np.testing.assert_allclose(scores, SCORES[video, time])
    assert persons.at("a", 903)[0].shape == (0, 4)
    assert persons.at("nobody", 902)[0].shape == (0, 4)
    assert len(persons) == 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_with_keyframes_without_persons(tmp_path, protocol):
    table = {"a,0902": np.zeros((0, 5)), "a,0903": np.array([[0, 0, 1, 1, 0.5]]), "a,0904": np.array([])}
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(table, protocol=protocol))
    persons = read_person_boxes(path)
    assert persons.timestamp.tolist() == [903]
    assert persons.score.tolist() == [0.5]


@pytest.mark.parametrize("label", [[""], ["12"], []], ids=["SlowFast", "with a label", "seven columns"])
def test_csv(tmp_path, label):
    assert_the_boxes(read_person_boxes(write_csv(tmp_path / "p.csv", label)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_of_proposals(tmp_path, protocol):
    assert_the_boxes(read_person_boxes(write_pickle(tmp_path / "p.pkl", protocol)))


def test_json_with_images_in_the_same_or_another_file(tmp_path):
    path, images = tmp_path / "p.json", tmp_path / "ava_val_min.json"
    path.write_text(json.dumps(coco_entries()))
    images.write_text(json.dumps({"images": IMAGES, "annotations": [], "categories": []}))
    assert_the_boxes(read_person_boxes(path, images))
    with pytest.raises(DataError, match="pass the COCO annotation file as `images`"):
        read_person_boxes(path)
    path.write_text(json.dumps({"images": IMAGES, "annotations": coco_entries()}))
    assert_the_boxes(read_person_boxes(path))


def test_select_by_mask(tmp_path):
    persons = read_person_boxes(write_csv(tmp_path / "p.csv", [""]))
    sure = persons.select(persons.score > 0.6)
    assert len(sure) == 2
    assert sure.at("a", 902)[1].tolist() == [0.9]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,0902,0.1,0.2,0.5,0.9", "expected 7 or 8 columns"),
        ("a,0902,10,20,50,90,,0.9", "looks like pixels"),
        ("a,0902,0.5,0.2,0.1,0.9,,0.9", "x1 must be smaller than x2"),
        (
            "a,0902,0.1,0.2,0.5,0.9,12,17",
            r"the person score must be in \[0, 1\], got 17; is this ground truth",
        ),
        ("a,0902,0.1,0.2,0.5,0.9,,nan", "the score must be a finite number"),
        ("a,now,0.1,0.2,0.5,0.9,,0.9", "the timestamp must be a number"),
    ],
)
def test_malformed_csv_line_is_reported(tmp_path, line, message):
    path = tmp_path / "p.csv"
    path.write_text(f"a,0902,0.1,0.2,0.5,0.9,,0.9\n{line}\n")
    with pytest.raises(DataError, match=rf"p\.csv:2: .*{message}"):
        read_person_boxes(path)


@pytest.mark.parametrize("name", ["p.csv", "p.json", "p.pkl"])
def test_missing_empty_and_binary_files_are_rejected(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(DataError, match="no such file"):
        read_person_boxes(path)
    for content in (b"", bytes(range(256)), b"\x1f\x8b\x08 no gzip"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_person_boxes(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0, 0, 700, 100]}, "box 0: .* outside the frame"),
        ({"bbox": [0, 0, -10, 100]}, "box 0: x1 must be smaller"),
        ({"bbox": [0, 0, 10]}, "box 0: bbox must be"),
        ({"bbox": [0, 0, "wide", 10]}, "box 0: bbox must be a finite number, got 'wide'"),
        ({"score": 1.5}, "box 0: the person score must be"),
        ({"score": None}, "box 0: 'score' must be of type integer or number, got null"),
        ({"image_id": 7}, "box 0: image id 7 is not among the images"),
    ],
)
def test_malformed_json_entry_is_reported(tmp_path, change, message):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"images": IMAGES, "annotations": [coco_entries()[0] | change]}))
    with pytest.raises(DataError, match=message):
        read_person_boxes(path)


def test_json_syntax_errors_have_a_line(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('[\n{"image_id": 1,\n]')
    with pytest.raises(DataError, match=r"p\.json:3: not valid JSON"):
        read_person_boxes(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected a dict"),
        ([1, 2], "expected a dict"),
        ({"a,0902": [[0, 0, 1, 1, 1]]}, r"entry 'a,0902': expected an array \(N, 5\)"),
        ({"a,0902": np.zeros((2, 3))}, r"expected an array \(N, 5\) .* got shape \(2, 3\)"),
        ({"a,0902": np.array([[None] * 5])}, "got an array that is not numeric"),
        ({"a": np.zeros((2, 5))}, "got a dict of 1, such as .a.: an array"),
        ({"a,0902": np.array([[10, 20, 30, 40, 0.5]])}, "entry 'a,0902': .*looks like pixels"),
        (
            {"a,0902": np.array([[0, 0, np.nan, 1, 0.5]])},
            "entry 'a,0902': a coordinate must be a finite number",
        ),
    ],
)
def test_malformed_pickle_entry_is_reported(tmp_path, content, message):
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=message):
        read_person_boxes(path)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_that_executes_code_is_rejected(tmp_path):
    path, trace = tmp_path / "p.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"a,0902": Hostile(trace)}))
    with pytest.raises(DataError, match=r"got a reference to \w+\.mkdir"):
        read_person_boxes(path)
    assert not trace.exists()


def test_one_line_per_label_is_one_person(tmp_path, caplog):
    lines = [
        "a,0902,0.1,0.2,0.5,0.9,12,0.4",
        "a,0902,0.3,0.2,0.5,0.9,12,0.7",
        "a,0902,0.10,0.2,0.5,0.9,17,0.9",
        "a,0903,0.1,0.2,0.5,0.9,12,0.5",
        "b,0902,0.1,0.2,0.5,0.9,12,0.6",
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    persons = read_person_boxes(tmp_path / "p.csv")
    boxes, scores = persons.at("a", 902)
    assert boxes.tolist() == [[0.1, 0.2, 0.5, 0.9], [0.3, 0.2, 0.5, 0.9]]
    assert scores.tolist() == [0.9, 0.7]
    assert len(persons) == 4
    assert "merged 1 of 5 person boxes into an identical box of their keyframe" in caplog.text


def test_persons_of_a_real_dataset_are_merged():
    folder = SHARED / "cases/real/person_boxes"
    if not folder.exists():
        pytest.skip("needs the real files in ../shared/cases, next to the repository")
    once, labeled = (read_person_boxes(folder / name) for name in ("persons.csv", "persons_labels.csv"))
    assert len(once) == len(labeled) == 20
    orders = np.argsort(once.timestamp), np.argsort(labeled.timestamp)
    for name in ("timestamp", "boxes", "score"):
        left, right = (getattr(p, name)[order] for p, order in zip((once, labeled), orders))
        np.testing.assert_array_equal(left, right)
    assert evaluate_person_boxes(read_action_csv(folder / "val.csv"), labeled).ap == pytest.approx(1)
    with pytest.raises(DataError, match=r"predicted_ann.csv:9: .*x1"):
        read_person_boxes(folder / "predicted_ann.csv")


def write_json(path, categories=None, **changes):
    entries = coco_entries()
    for i, number in changes.items():
        entries[int(i[1:])]["category_id"] = number
    content = {"images": IMAGES, "annotations": entries}
    path.write_text(json.dumps(content | ({} if categories is None else {"categories": categories})))
    return path


def test_other_categories_are_dropped(tmp_path, caplog):
    persons = read_person_boxes(write_json(tmp_path / "p.json", _0=62))
    assert persons.score.tolist() == [0.5, 0.75]
    assert "dropped boxes: 1 of 3 boxes have other categories than person (62: 1)" in caplog.text
    names = [{"id": 1, "name": "bicycle"}, {"id": 7, "name": "Person"}]
    persons = read_person_boxes(write_json(tmp_path / "p.json", names, _1=7))
    assert persons.score.tolist() == [0.5]
    with pytest.raises(DataError, match=r"p.json: 3 of 3 boxes have other categories than person \(0: 3\)"):
        read_person_boxes(write_json(tmp_path / "p.json", _0=0, _1=0, _2=0))
    with pytest.raises(DataError, match="expected a person category, got 'bicycle'"):
        read_person_boxes(write_json(tmp_path / "p.json", names[:1]))


def test_huge_ids_are_truncated_in_messages(tmp_path):
    path = write_json(tmp_path / "p.json", **{f"_{i}": 10**400 for i in range(3)})
    with pytest.raises(DataError, match=r"3 of 3 boxes .* \(1000+\.\.\.: 3\)") as error:
        read_person_boxes(path)
    assert len(str(error.value)) < len(str(path)) + 200


@pytest.mark.parametrize(("number", "got"), [([3], r"\[3\]"), ("Zoë", "'Zoë'"), (None, "null")])
def test_category_id_that_is_not_an_integer(tmp_path, number, got):
    path = write_json(tmp_path / "p.json", [{"id": number, "name": "person"}])
    with pytest.raises(
        DataError, match=rf"p\.json: category 'person': 'id' must be of type integer, got {got}$"
    ):
        read_person_boxes(path)


def test_json_boxes_that_are_not_in_pixels(tmp_path):
    entries = [entry | {"bbox": [0.1, 0.2, 0.5, 0.7]} for entry in coco_entries()]
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"images": IMAGES, "annotations": entries}))
    with pytest.raises(DataError, match=r"p\.json: expected bbox .* in pixels, got no coordinate above"):
        read_person_boxes(path)


@pytest.mark.parametrize(("separator", "name"), [("\t", "tabs"), (";", "semicolons")])
def test_columns_not_separated_by_commas(tmp_path, separator, name):
    path = write_csv(tmp_path / "p.csv", [""])
    path.write_text(path.read_text().replace(",", separator))
    with pytest.raises(DataError, match=rf"p\.csv:1: expected columns separated by commas, got {name}"):
        read_person_boxes(path)


def test_image_id_used_for_two_keyframes(tmp_path):
    images = [IMAGES[0], IMAGES[1] | {"id": IMAGES[0]["id"]}]
    (tmp_path / "p.json").write_text(json.dumps({"images": images, "annotations": coco_entries()}))
    with pytest.raises(DataError, match="image 1: duplicate id 9020902, first used for keyframe a,902"):
        read_person_boxes(tmp_path / "p.json")


def test_too_many_boxes_in_a_keyframe_are_rejected(tmp_path):
    lines = [f"a,0902,0.1,0.2,0.5,{0.3 + k / 10000:.4f},,0.4" for k in range(2001)]
    (tmp_path / "p.csv").write_text("b,0902,0.1,0.2,0.5,0.9,,0.4\n" + "\n".join(lines[:2000]))
    assert len(read_person_boxes(tmp_path / "p.csv")) == 2001
    (tmp_path / "p.csv").write_text("b,0902,0.1,0.2,0.5,0.9,,0.4\n" + "\n".join(lines))
    with pytest.raises(
        DataError, match=r"p.csv: keyframe a,902: expected at most 2000 person boxes, got 2001"
    ):
        read_person_boxes(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ([np.zeros((2, 5))], r"got a list of 1, such as an array \(2, 5\)"),
        ([], "got a list"),
        ({"v": np.zeros((2, 5))}, r"got a dict of 1, such as 'v': an array \(2, 5\)"),
        ({("v", 902): np.zeros((2, 5))}, r"got a dict of 1, such as a tuple: an array \(2, 5\)"),
        ({"v": {"bboxes": [1]}}, "got a dict of 1, such as 'v': a dict of 1, such as 'bboxes': a list"),
        ({"v,902": [[0, 0, 1, 1, 1]]}, "entry 'v,902': .*, got a list of 1, such as a list of 5"),
        ({"v,902": np.zeros((2, 6))}, r"entry 'v,902': expected an array \(N, 5\).*, got shape \(2, 6\)"),
        (np.zeros((3, 7)), r"got an array \(3, 7\)"),
        (np.str_("v"), "got a str"),
    ],
)
def test_pickle_of_another_structure_is_described(tmp_path, content, got):
    path = tmp_path / "proposals.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=got) as error:
        read_person_boxes(path)
    assert "expected a" in str(error.value)
