from collections import defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmae_det.data.label_map import LabelMap
from vmae_det.data.tubes import read_tubes
from vmae_det.evaluation.video_map import IOU_RANGE, tube_map
from vmae_det.utils.errors import DataError, UserError

HEADER = "video_id,tube_id,label,score,frame,x1,y1,x2,y2"


def tubes_of(folder, kind, tubes):
    """(video, tube id, label, score, {frame: box}) tuples, written and read."""
    lines = [HEADER]
    for video, name, label, score, boxes in tubes:
        for frame, box in boxes.items():
            own = score and box_score(score, frame)
            lines.append(",".join(map(str, (video, name, label, own, frame, *box))))
    path = folder / f"{kind}.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_tubes(path, kind)


def box_score(score, frame):
    """The scores of a tube's boxes differ a little, so that none tie."""
    return round(score + 1e-9 * frame, 9)


def overlap(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def tube_overlap(a, b):
    common = [frame for frame in a if frame in b]
    if not common:
        return 0
    return np.mean([overlap(a[f], b[f]) for f in common]) * len(common) / len(set(a) | set(b))


def voc(ranked, count):
    hits = [hit for _, hit in sorted(ranked, key=lambda entry: -entry[0])]
    precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    return sum(max(precision[i:]) for i, hit in enumerate(hits) if hit) / count


def reference_video_ap(truth, found, iou):
    """As one would write it without a thought of speed; scores differ."""
    result = {}
    for label in sorted({tube[2] for tube in truth}):
        taken, ranked = set(), []
        for video, _, _, score, boxes in sorted((t for t in found if t[2] == label), key=lambda t: -t[3]):
            if video not in {tube[0] for tube in truth}:
                continue
            rivals = [i for i, tube in enumerate(truth) if tube[0] == video and tube[2] == label]
            best = max(rivals, key=lambda i: tube_overlap(truth[i][4], boxes), default=None)
            hit = best is not None and best not in taken and tube_overlap(truth[best][4], boxes) >= iou
            taken |= {best} if hit else set()
            ranked.append((score, hit))
        result[label] = voc(ranked, sum(tube[2] == label for tube in truth))
    return result


def reference_frame_ap(truth, found):
    result = {}
    for label in sorted({tube[2] for tube in truth}):
        boxes = defaultdict(list)
        for video, _, own, _, frames in truth:
            for frame, box in frames.items():
                boxes[video, frame] += [box] if own == label else []
        rows = [
            (box_score(t[3], frame), t[0], frame, box)
            for t in found
            if t[2] == label
            for frame, box in t[4].items()
        ]
        taken, ranked = set(), []
        for score, video, frame, box in sorted(rows, reverse=True):
            if video not in {tube[0] for tube in truth}:
                continue
            overlaps = [overlap(box, other) for other in boxes.get((video, frame), [])]
            best = (video, frame, int(np.argmax(overlaps))) if overlaps else None
            hit = best is not None and max(overlaps) >= 0.5 and best not in taken
            taken |= {best} if hit else set()
            ranked.append((score, hit))
        result[label] = voc(ranked, sum(map(len, boxes.values())))
    return result


def random_tubes(rng, count, near=()):
    """Tubes with gaps in three videos, most of them near to those of `near`."""
    tubes = []
    for i in range(count):
        video, label = f"v{rng.integers(3)}", f"label {rng.integers(2)}"
        frames = np.arange(rng.integers(0, 10), rng.integers(12, 30))
        frames = frames[rng.random(len(frames)) < 0.9]
        corner = rng.uniform(0, 0.5, 2)
        base = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, 2)])
        boxes = {int(frame): base + rng.normal(0, 0.01, 4) for frame in frames}
        if near and rng.random() < 0.7:
            video, _, label, _, own = near[rng.integers(len(near))]
            kept = [frame for frame in own if rng.random() < 0.9]
            boxes = {frame: own[frame] + rng.normal(0, 0.02, 4) for frame in kept}
        tubes.append((video, i, label, round(rng.random(), 6), {f: b.round(6) for f, b in boxes.items()}))
    return tubes


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_plain_definition(tmp_path, seed):
    rng = np.random.default_rng(seed)
    truth = random_tubes(rng, 8)
    found = random_tubes(rng, 25, truth)
    found.append(("elsewhere", 0, "label 0", 2.0, {1: (0, 0, 1, 1)}))
    found.append(("v0", "x", "unknown", 2.0, {1: (0, 0, 1, 1)}))
    result = tube_map(
        tubes_of(tmp_path, "ground_truth", truth),
        tubes_of(tmp_path, "detections", found),
        ious=(0.2, 0.5, 0.75),
    )
    names = result.tubes.label_map.names
    by_range = []
    for iou in (0.2, 0.5, 0.75, *IOU_RANGE):
        expected = reference_video_ap(truth, found, iou)
        assert dict(zip(names, result.tubes.average_precisions(iou))) == pytest.approx(expected, abs=1e-12)
        by_range.append(list(expected.values()))
    assert result.video_map["0.5"] == pytest.approx(np.mean(by_range[1]))
    assert result.video_map["0.5:0.95"] == pytest.approx(np.mean(by_range[3:]))
    expected = reference_frame_ap(truth, found)
    assert dict(zip(names, result.frame.ap)) == pytest.approx(expected, abs=1e-12)
    assert 0.1 < result.video_map["0.2"] < 1
    scored = [tube for tube in found if tube[0] in {t[0] for t in truth} and tube[2] in names]
    assert f"{len(scored)} of 27 tubes" in result.table()


def test_overlap_in_space_and_time_by_hand(tmp_path):
    truth = tubes_of(
        tmp_path, "ground_truth", [("v", 0, "jump", "", dict.fromkeys(range(1, 9), (0, 0, 10, 10)))]
    )
    # 4 common frames of 10; half of each box: 0.4 * 0.5.
    found = [("v", 5, "jump", 0.3, dict.fromkeys((5, 6, 7, 8, 20, 21), (0, 0, 10, 5)))]
    tubes = tube_map(truth, tubes_of(tmp_path, "detections", found)).tubes
    assert tubes.overlap.tolist() == [pytest.approx(0.2)]
    assert tubes.average_precisions(0.19).tolist() == [1]
    assert tubes.average_precisions(0.21).tolist() == [0]


def test_a_tube_has_the_mean_of_its_scores_and_equal_scores_tie(tmp_path):
    box = (0, 0, 1, 1)
    truth = tubes_of(tmp_path, "ground_truth", [("v", 0, "a", "", {1: box, 2: box, 3: box})])
    path = tmp_path / "d.csv"
    rows = [
        "v,hit,a,0.1,1,0,0,1,1",
        "v,hit,a,0.5,2,0,0,1,1",
        "v,hit,a,0.6,3,0,0,1,1",
        "v,miss,a,0.5,1,8e-1,0,1,1",
    ]
    path.write_text("\n".join([HEADER, *rows]))
    matches = tube_map(truth, read_tubes(path, "detections")).tubes
    assert matches.score.tolist() == [0.5, pytest.approx(0.4)]
    assert matches.overlap.tolist() == [pytest.approx(0.2 / 3), 1]
    rows = [
        f"v,{name},a,0.1,{frame},0,0,1,1" for name, frames in (("1", "1"), ("2", "123")) for frame in frames
    ]
    path.write_text("\n".join([HEADER, *rows]))
    assert tube_map(truth, read_tubes(path, "detections")).tubes.score.tolist() == [0.1, 0.1]


@settings(
    derandomize=True,
    database=None,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**6), random=st.randoms(use_true_random=False))
def test_the_order_of_lines_changes_nothing(tmp_path, seed, random):
    rng = np.random.default_rng(seed)
    truth = random_tubes(rng, 5)
    found = random_tubes(rng, 12, truth)
    found = [(*tube[:3], round(tube[3], 1), tube[4]) for tube in found]
    files = [tubes_of(tmp_path, "ground_truth", truth), tubes_of(tmp_path, "detections", found)]
    expected = tube_map(*files).to_json()
    for kind in ("ground_truth", "detections"):
        header, *lines = (tmp_path / f"{kind}.csv").read_text().splitlines()
        random.shuffle(lines)
        (tmp_path / f"{kind}.csv").write_text("\n".join([header, *lines]))
    again = [read_tubes(tmp_path / f"{kind}.csv", kind) for kind in ("ground_truth", "detections")]
    assert tube_map(*again).to_json() == expected


def test_a_perfect_detector_scores_one_and_none_scores_zero(tmp_path):
    truth = random_tubes(np.random.default_rng(0), 12)
    files = [tubes_of(tmp_path, kind, truth) for kind in ("ground_truth", "detections")]
    result = tube_map(*files, ious=(1.0,))
    assert result.video_map == {"1": 1, "0.5:0.95": 1}
    assert result.frame.mean_ap == 1
    nothing = files[1].select(np.zeros(len(files[1]), bool))
    assert tube_map(files[0], nothing).video_map["0.2"] == 0


def test_only_labels_of_the_label_map_count(tmp_path):
    box = {1: (0, 0, 1, 1)}
    truth = tubes_of(tmp_path, "ground_truth", [("v", 0, "a", "", box), ("v", 0, "b", "", box)])
    found = tubes_of(tmp_path, "detections", [("v", 0, "a", 0.5, box)])
    assert tube_map(truth, found).video_map["0.5"] == 0.5
    only_a = LabelMap((7, 9), ("a", "c"), ("", ""))
    result = tube_map(truth, found, only_a)
    assert result.video_map["0.5"] == result.frame.mean_ap == 1
    assert list(result.to_json()["per_class"]) == ["a"]
    with pytest.raises(DataError, match="none of its labels is in the label map"):
        tube_map(truth, found, LabelMap((1,), ("A",), ("",)))


def test_what_cannot_be_compared_is_said(tmp_path):
    truth = tubes_of(tmp_path, "ground_truth", [("v", 0, "a", "", {1: (20, 10, 60, 90)})])
    found = tubes_of(tmp_path, "detections", [("v", 0, "a", 0.5, {1: (0.2, 0.1, 0.6, 0.9)})])
    with pytest.raises(DataError, match="relative coordinates and the other pixels"):
        tube_map(truth, found)
    with pytest.raises(UserError, match=r"IoU thresholds must be in \(0, 1\], got 50"):
        tube_map(truth, truth, ious=(50,)).table()
    elsewhere = tubes_of(tmp_path, "detections", [("w", 0, "a", 0.5, {1: (20, 10, 60, 90)})])
    assert "compare both files" in tube_map(truth, elsewhere).table()
