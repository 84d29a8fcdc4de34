import json

import numpy as np
import pytest

from vmae_det.cli import main as cli_main
from vmae_det.data.tubes import read_tubes
from vmae_det.evaluation.average_precision import points_area
from vmae_det.evaluation.video_map import tube_overlaps, video_map
from vmae_det.utils.errors import DataError


def write(path, tubes):
    """(video, tube, label, score, {frame: box}) tuples as a file."""
    lines = [
        f"{video},{tube},{label},{score},{frame},{','.join(map(str, box))}"
        for video, tube, label, score, boxes in tubes
        for frame, box in boxes.items()
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def random_tubes(seed):
    """Tubes of two classes and two videos, some with gaps, and detections near them; scores differ."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(9):
        video, label = "uv"[number % 2], ("run", "climb stairs")[rng.integers(2)]
        start = rng.integers(0, 12)
        corner = rng.integers(0, 30, 2)
        frames = [f for f in range(start, start + rng.integers(2, 9)) if rng.random() < 0.95]
        box = np.array([*corner, *(corner + rng.integers(20, 40, 2))], dtype=float)
        if not frames:
            continue
        truth.append((video, number, label, "", {f: box.tolist() for f in frames}))
        for _ in range(rng.integers(0, 4)):
            shift, later = rng.normal(0, 3, 4), rng.integers(-2, 3)
            near = {max(f + int(later), 0): (box + shift).round(2).tolist() for f in frames}
            other = label if rng.random() < 0.8 else "fall"
            found.append((video, len(found), other, round(rng.random(), 6), near))
    return truth, found


def box_overlap(a, b):
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)


def tube_overlap(a, b):
    common = set(a) & set(b)
    if not common:
        return 0.0
    return len(common) / len(set(a) | set(b)) * np.mean([box_overlap(a[f], b[f]) for f in common])


def reference(truth, found, label, threshold):
    """AP of one class, tube by tube."""
    free = [tube for tube in truth if tube[2] == label]
    total, true, area, before = len(free), 0, 0.0, (0.0, 1.0)
    own = sorted((tube for tube in found if tube[2] == label), key=lambda tube: -tube[3])
    for rank, tube in enumerate(own, start=1):
        overlaps = [tube_overlap(other[4], tube[4]) if other[0] == tube[0] else 0 for other in free]
        if overlaps and max(overlaps) >= threshold:
            del free[overlaps.index(max(overlaps))]
            true += 1
        point = (true / total, true / rank)
        area += (point[0] - before[0]) * (point[1] + before[1]) / 2
        before = point
    return area


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_plain_definition(tmp_path, seed):
    truth, found = random_tubes(seed)
    result = video_map(
        read_tubes(write(tmp_path / "gt.csv", truth)),
        read_tubes(write(tmp_path / "d.csv", found), "detections"),
    )
    assert list(result.labels) == sorted({tube[2] for tube in truth})
    for i, label in enumerate(result.labels):
        for k, threshold in enumerate(result.thresholds):
            assert result.ap[i, k, 0] == pytest.approx(reference(truth, found, label, threshold), abs=1e-12)


def test_overlap_by_hand(tmp_path):
    truth = write(tmp_path / "gt.csv", [("v", 1, "run", "", {f: [0, 0, 10, 10] for f in range(4)})])
    # Frames 2..5: 2 of 6 are shared, with IoU 1/2 and 1.
    boxes = {2: [0, 0, 10, 5], 3: [0, 0, 10, 10], 4: [0, 0, 1, 1], 5: [0, 0, 1, 1]}
    found = write(tmp_path / "d.csv", [("v", 7, "run", 0.5, boxes), ("w", 7, "run", 0.5, boxes)])
    pairs = tube_overlaps(read_tubes(truth), read_tubes(found, "detections"))
    assert pairs.overlap == pytest.approx([2 / 6 * 0.75])


def test_a_taken_tube_leaves_the_next_best(tmp_path):
    """Unlike boxes in frame-mAP."""
    truth = [("v", i, "run", "", {1: [i, 0, 10 + i, 10]}) for i in (0, 1)]
    found = [("v", i, "run", 0.9 - i / 10, {1: [0, 0, 10, 10]}) for i in (0, 1)]
    files = write(tmp_path / "gt.csv", truth), write(tmp_path / "d.csv", found)
    result = video_map(read_tubes(files[0]), read_tubes(files[1], "detections")).to_json()
    assert result["video_mAP"]["0.5"] == 1
    assert result["frame_mAP"] == 0.5


def test_area_from_point_to_point():
    # Recall 1/2, 1/2, 1 at precision 1, 1/2, 2/3.
    assert points_area(np.array([1, 3]), 2) == pytest.approx(0.5 + (1 / 2 + 2 / 3) / 2 / 2)
    assert points_area(np.array([], dtype=int), 2) == 0


def test_the_command_scores_tubes(tmp_path, capsys):
    truth, _ = random_tubes(0)
    path = write(tmp_path / "gt.csv", truth)
    perfect = write(tmp_path / "d.csv", [(v, t, label, 0.5, boxes) for v, t, label, _, boxes in truth])
    out = tmp_path / "out.json"
    arguments = ["evaluate", "--ground-truth", str(path), "--tubes", str(perfect), "--json", str(out)]
    assert cli_main.main(arguments) == 0
    assert "climb stairs" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["video_mAP"] == {"0.2": 1, "0.5": 1, "0.5:0.95": 1}
    assert result["frame_mAP"] == 1


GOOD = "v,1,run,0.5,3,0,0,10,10"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v,1,run,0.5,4,0,0,10", "expected 9 columns"),
        ("v,1,walk,0.5,4,0,0,10,10", "label and score of tube 1 of v differ"),
        ("v,1,run,0.6,4,0,0,10,10", "label and score of tube 1 of v differ"),
        (GOOD, "tube 1 of v has frame 3 twice"),
        ("v,x,run,0.5,4,0,0,10,10", "the tube id must be a whole number"),
        ("v,1,run,,4,0,0,10,10", "the score must be a number"),
        ("v,1,run,0.5,4.5,0,0,10,10", "the frame must be a whole number"),
        ("v,1,run,0.5,-4,0,0,10,10", "the frame must be a number from 0"),
        ("v,1,run,0.5,4,20,0,10,10", "x1 must be smaller than x2"),
        (",1,run,0.5,4,0,0,10,10", "the video id must be plain text"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = tmp_path / "d.csv"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(DataError, match=rf"d\.csv:2: {message}"):
        read_tubes(path, "detections")
