import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vmae_det.cli import main as cli_main
from vmae_det.config import get_cfg
from vmae_det.evaluation import FrameMAPEvaluator, evaluate_frame_map
from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.frame_map import FrameMAP, chance_level, frame_map
from vmae_det.evaluation.matching import match
from vmae_det.formats.ava_csv import ActionBoxes, LabelMap, read_action_csv, write_action_csv
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.utils.errors import DataError, UserError

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "ava_eval"
LABEL_MAP = LabelMap((2, 5, 9), ("sit", "stand", "talk"), ("", "", ""))
VIDEOS = np.array(["a", "b"], dtype=object)


def rows(entries):
    """Convert (video, time, box, action, score) tuples to ActionBoxes."""
    video, time, boxes, action, score = zip(*entries) if entries else ((), (), (), (), ())
    return ActionBoxes(
        VIDEOS,
        np.array(["ab".index(name) for name in video], dtype=np.int32),
        np.array(time, dtype=np.float64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(action, dtype=np.int32),
        np.array(score, dtype=np.float64),
        np.full(len(video), -1, dtype=np.int32),
    )


def random_case(seed, keyframes=12, ties=False):
    """Generate crowded keyframes, near hits, unknown actions, and keyframes of one file only."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for k in range(keyframes):
        video, time = "ab"[k % 2], 902.0 + k // 2
        for _ in range(rng.integers(0, 4)):
            corner = rng.uniform(0, 0.5, 2)
            box = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, 2)])
            for action in rng.choice([2, 5, 9, 77], rng.integers(1, 4), replace=False):
                truth.append((video, time, box, action, 1.0))
            for _ in range(rng.integers(0, 4)):
                near = np.clip(box + rng.normal(0, 0.05, 4), 0, 1)
                for action in (2, 5, 9, 77):
                    score = rng.integers(0, 4) / 4 if ties else rng.random()
                    found.append((video, time, near, action, score))
    return rows(truth), rows(found)


def reference(truth, found, protocol, excluded=(), iou=0.5, cap=50):
    """Straightforward, slow implementation of frame-mAP. Scores must be distinct."""

    def grouped(source):
        groups = defaultdict(list)
        for i in range(len(source)):
            key = (source.videos[source.video[i]], source.timestamp[i])
            if key not in excluded:
                groups[key].append((source.score[i], source.action[i], tuple(source.boxes[i])))
        return groups

    truths, founds = grouped(truth), grouped(found)
    if protocol == "challenge":
        founds = {
            key: sorted([entry for entry in entries if entry[1] in LABEL_MAP.ids], reverse=True)[:cap]
            for key, entries in founds.items()
            if key in truths
        }
    result = []
    for action in LABEL_MAP.ids:
        count = sum(entry[1] == action for entries in truths.values() for entry in entries)
        ranked = []
        for key, entries in founds.items():
            boxes = [box for _, other, box in truths.get(key, []) if other == action]
            taken = set()
            for score, other, box in entries:
                if other != action or box[0] >= box[2] or box[1] >= box[3]:
                    continue
                overlaps = [overlap(box, truth_box) for truth_box in boxes]
                best = int(np.argmax(overlaps)) if overlaps else -1
                hit = bool(overlaps) and overlaps[best] >= iou and best not in taken
                if hit:
                    taken.add(best)
                ranked.append((score, hit))
        hits = [hit for _, hit in sorted(ranked, reverse=True)]
        precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
        ap = sum(max(precision[i:]) for i, hit in enumerate(hits) if hit)
        result.append(ap / count if count else np.nan)
    return result


def overlap(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"needs results of the published evaluators in {GOLDEN}")
@pytest.mark.parametrize(
    ("expected", "protocol", "excluded"),
    [
        ("cap50", "challenge", None),
        ("no_cap", "slowfast", None),
        ("no_cap_excluded", "slowfast", GOLDEN / "excluded.csv"),
    ],
)
def test_agrees_with_published_evaluators_on_every_class(expected, protocol, excluded):
    label_map = GOLDEN / "ava_action_list_v2.1_for_activitynet_2018.pbtxt"
    result = evaluate_frame_map(
        GOLDEN / "gt.csv", GOLDEN / "pred.csv", label_map, excluded=excluded, protocol=protocol
    ).to_json()
    wanted = json.loads((GOLDEN / f"expected_{expected}.json").read_text())
    assert result["mAP"] == pytest.approx(wanted.pop("PascalBoxes_Precision/mAP@0.5IOU"), abs=1e-9)
    assert len(wanted) == len(result["per_class"]) == 60
    for key, ap in wanted.items():
        found = result["per_class"][key.split("AP@0.5IOU/")[1]]["ap"]
        assert found == (None if ap is None else pytest.approx(ap, abs=1e-9))


@pytest.mark.parametrize("protocol", ["challenge", "slowfast"])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_plain_definition(seed, protocol):
    truth, found = random_case(seed)
    excluded = {("a", 903.0)}
    matches = match(truth, found, LABEL_MAP, excluded=excluded, protocol=protocol)
    for iou in (0.3, 0.5):
        expected = reference(truth, found, protocol, excluded, iou)
        np.testing.assert_allclose(FrameMAP.from_matches(matches, iou).ap, expected, atol=1e-12)


def test_many_keyframes_and_the_cap_of_fifty_rows(monkeypatch):
    truth, found = random_case(0, keyframes=400)
    monkeypatch.setattr("vmae_det.evaluation.matching._MAX_ROWS_PER_KEYFRAME", 7)
    result = frame_map(truth, found, LABEL_MAP)
    np.testing.assert_allclose(result.ap, reference(truth, found, "challenge", cap=7), atol=1e-12)
    assert result.num_scored < result.num_detections


def test_average_precision_by_hand():
    # Precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/4, 1/4, 2/4, 2/4, 3/4; the fourth box is missed.
    assert average_precision(np.array([1, 0, 1, 0, 1], bool), 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert average_precision(np.array([], bool), 3) == 0


def test_iou_at_the_threshold_is_a_hit_and_empty_boxes_are_ignored():
    truth = rows([("a", 1, [0, 0, 1, 1], 2, 1)])
    half = ("a", 1, [0, 0, 1, 0.5], 2, 0.5)
    assert frame_map(truth, rows([half]), LABEL_MAP, iou=0.5).mean_ap == 1
    assert frame_map(truth, rows([half]), LABEL_MAP, iou=0.501).mean_ap == 0
    empty = ("a", 1, [0.3, 0.3, 0.3, 0.8], 2, 0.9)
    assert frame_map(truth, rows([empty, half]), LABEL_MAP).mean_ap == 1


def test_second_detection_of_a_box_is_a_false_positive_even_if_another_box_overlaps():
    left, right = [0.0, 0.0, 0.4, 1.0], [0.05, 0.0, 0.45, 1.0]
    truth = rows([("a", 1, left, 2, 1), ("a", 1, right, 2, 1)])
    # Both detections have the highest IoU with the left box, so only the better one is a hit.
    found = rows([("a", 1, [0.0, 0.0, 0.39, 1.0], 2, 0.5), ("a", 1, [0.01, 0.0, 0.4, 1.0], 2, 0.9)])
    assert frame_map(truth, found, LABEL_MAP).mean_ap == pytest.approx(0.5)


def test_keyframes_without_ground_truth_are_scored_by_slowfast_only():
    truth = rows([("a", 1, [0, 0, 1, 1], 2, 1)])
    found = rows([("a", 1, [0, 0, 1, 1], 2, 0.5), ("b", 1, [0, 0, 1, 1], 2, 0.9)])
    assert frame_map(truth, found, LABEL_MAP, protocol="challenge").mean_ap == 1
    assert frame_map(truth, found, LABEL_MAP, protocol="slowfast").mean_ap == 0.5
    # Every row of the ground truth adds its keyframe, regardless of its action, with or without a box.
    for box, action in (([0, 0, 1, 1], 77), ([np.nan] * 4, -1)):
        named = rows([("a", 1, [0, 0, 1, 1], 2, 1), ("b", 1, box, action, 1)])
        assert frame_map(named, found, LABEL_MAP, protocol="challenge").mean_ap == 0.5


@pytest.mark.parametrize("ties", [False, True], ids=["scores differ", "scores tie"])
@pytest.mark.parametrize("seed", range(4))
def test_row_order_does_not_matter(monkeypatch, seed, ties):
    monkeypatch.setattr("vmae_det.evaluation.matching._MAX_ROWS_PER_KEYFRAME", 9)
    truth, found = random_case(seed, ties=ties)
    rng = np.random.default_rng(seed)
    expected = frame_map(truth, found, LABEL_MAP)
    for _ in range(3):
        shuffled = [part.select(rng.permutation(len(part))) for part in (truth, found)]
        np.testing.assert_array_equal(frame_map(*shuffled, LABEL_MAP).ap, expected.ap)


def test_ties_over_many_keyframes_do_not_depend_on_row_order():
    count, rng = 70_000, np.random.default_rng(0)
    boxes = np.tile([[0.0, 0.0, 1.0, 1.0]], (count, 1))
    truth = ActionBoxes(
        VIDEOS,
        (np.arange(count) % 2).astype(np.int32),
        np.arange(count) // 2.0,
        boxes,
        np.full(count, 2, np.int32),
        np.ones(count),
        np.full(count, -1, np.int32),
    )
    found = truth.select(np.arange(count))
    found.boxes[rng.random(count) < 0.5, 2] = 0.2
    expected = frame_map(truth, found, LABEL_MAP).mean_ap
    assert frame_map(truth, found.select(rng.permutation(count)), LABEL_MAP).mean_ap == expected


@pytest.mark.parametrize("seed", range(3))
def test_slowfast_depends_on_row_order_within_a_keyframe_only(seed):
    truth, found = random_case(seed)
    expected = frame_map(truth, found, LABEL_MAP, protocol="slowfast")
    keyframes = found.video * 1000 + found.timestamp
    regrouped = np.concatenate([np.flatnonzero(keyframes == k) for k in np.unique(keyframes)[::-1]])
    again = frame_map(truth, found.select(regrouped), LABEL_MAP, protocol="slowfast")
    np.testing.assert_array_equal(again.ap, expected.ap)
    by_score = found.select(np.argsort(-found.score))
    capless = frame_map(truth, by_score, LABEL_MAP, protocol="slowfast").ap
    np.testing.assert_allclose(capless, reference(truth, by_score, "slowfast"), atol=1e-12)


@pytest.mark.parametrize("protocol", ["challenge", "slowfast"])
def test_a_perfect_detector_scores_one(protocol):
    truth, _ = random_case(1)
    assert frame_map(truth, truth, LABEL_MAP, protocol=protocol).mean_ap == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_lower_scored_false_positive_never_raises_ap(seed):
    truth, found = random_case(seed)
    before = frame_map(truth, found, LABEL_MAP)
    false = rows([("a", 902, [0.0, 0.0, 0.01, 0.01], 5, found.score.min() / 2)])
    merged = ActionBoxes(
        VIDEOS,
        *(
            np.concatenate([getattr(found, name), getattr(false, name)])
            for name in ("video", "timestamp", "boxes", "action", "score", "person")
        ),
    )
    assert (np.nan_to_num(frame_map(truth, merged, LABEL_MAP).ap) <= np.nan_to_num(before.ap)).all()


def test_invalid_input_is_reported():
    truth, found = random_case(0)
    with pytest.raises(UserError, match="protocol must be one of challenge, slowfast, mmaction2, got 'coco'"):
        frame_map(truth, found, LABEL_MAP, protocol="coco")
    with pytest.raises(UserError, match=r"IoU thresholds must be in \(0, 1\], got 50"):
        frame_map(truth, found, LABEL_MAP, iou=50)
    with pytest.raises(DataError, match="no ground truth to score: all rows are excluded"):
        frame_map(rows([("a", 1, [0, 0, 1, 1], 77, 1)]), found, LABEL_MAP)
    found.score[3] = np.nan
    with pytest.raises(DataError, match="expected scores that are numbers, got NaN in the detections"):
        frame_map(truth, found, LABEL_MAP)


def test_no_detections_score_zero():
    truth, _ = random_case(0)
    for protocol in ("challenge", "slowfast"):
        assert frame_map(truth, rows([]), LABEL_MAP, protocol=protocol).mean_ap == 0


@pytest.mark.parametrize("protocol", ["challenge", "slowfast", "mmaction2"])
@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([], "there are no detections"),
        (
            [("b", 1, [0, 0, 1, 1], 2, 0.5)],
            "no video id is in both files: the ground truth has 'a', the detect",
        ),
        (
            [("a", 901, [0, 0, 1, 1], 2, 0.5)],
            "has seconds 1 to 2 in the ground truth, 901 to 901 in the detections",
        ),
        (
            [("a", 1, [0, 0, 1, 1], 3, 0.5)],
            "the label map has the action ids 2, 5, 9 ..., the detections have 3",
        ),
        ([("a", 1, [0, 0, 1, 1], 9, 0.5)], "no detection has an action that is annotated in its keyframe"),
        (
            [("a", 1, [0, 0, 0.1, 1], 2, 0.5)],
            "the highest IoU with an annotated box is 0.1, below 0.5",
        ),
    ],
)
def test_zero_is_explained(found, problem, protocol):
    truth = rows([("a", time, [0, 0, 1, 1], 2, 1) for time in (1, 2)])
    result = frame_map(truth, rows(found), LABEL_MAP, protocol=protocol)
    assert result.mean_ap == 0
    assert problem in result.table()
    assert problem in result.to_json()["problem"]


def test_keyframes_without_detections_are_counted():
    truth = rows([("a", time, [0, 0, 1, 1], 2, 1) for time in range(5)])
    found = rows([("a", time, [0, 0, 1, 1], 2, 0.5) for time in (1, 2)])
    for protocol in ("challenge", "slowfast", "mmaction2"):
        result = frame_map(truth, found, LABEL_MAP, protocol=protocol)
        assert (result.num_keyframes, result.num_undetected) == (5, 3)
        assert "3 of 5 annotated keyframes have no detections" in result.table()
        assert not result.problem


def test_differences_of_mmaction2():
    """Excluded keyframes are missed, empty boxes are false positives, and undetected classes have no AP."""
    truth = [("a", 1, [0, 0, 1, 1], 2, 1), ("a", 2, [0, 0, 1, 1], 2, 1), ("a", 1, [0, 0, 1, 1], 5, 1)]
    found = [("a", time, [0, 0, 1, 1], 2, 0.5) for time in (1, 2)]
    empty = ("a", 1, [0.5, 0, 0.5, 1], 2, 0.9)
    assert frame_map(rows(truth), rows(found), LABEL_MAP, protocol="mmaction2").mean_ap == 1
    assert frame_map(rows(truth), rows(found), LABEL_MAP).mean_ap == 0.5
    excluded = {"excluded": {("a", 2.0)}, "protocol": "mmaction2"}
    assert frame_map(rows(truth), rows(found), LABEL_MAP, **excluded).mean_ap == 0.5
    false = frame_map(rows(truth), rows([*found, empty]), LABEL_MAP, protocol="mmaction2").mean_ap
    assert false == pytest.approx(2 / 3)  # precision 0, 1/2, 2/3
    # All 80 rows of a keyframe are scored. A keyframe without a known action in the ground truth is not.
    crowd = [("a", 1, [0, 0, 0.1, 0.1], 2, 0.9)] * 80
    assert frame_map(rows(truth), rows([*found, *crowd]), LABEL_MAP, protocol="mmaction2").mean_ap < 0.03
    named = [*truth, ("b", 1, [0, 0, 1, 1], 77, 1)]
    elsewhere = [("b", 1, [0, 0, 1, 1], 2, 0.9)]
    assert frame_map(rows(named), rows(found + elsewhere), LABEL_MAP, protocol="mmaction2").mean_ap == 1
    # These two scores are equal in float32.
    near = [("a", 1, [0, 0, 1, 1], 2, 0.5), ("a", 1, [0, 0, 0.1, 0.1], 2, 0.5 + 1e-9)]
    one = frame_map(rows(truth[:1]), rows(near), LABEL_MAP, protocol="mmaction2")
    assert one.mean_range == (0.5, 1)


def test_empty_detections_file_scores_zero(ava_files, tmp_path, capsys):
    files = ["--ground-truth", str(ava_files.truth), "--label-map", str(ava_files.labels)]
    empty = tmp_path / "empty.csv"
    empty.write_text("\n")
    for protocol in ("challenge", "slowfast", "mmaction2"):
        arguments = [*files, "--detections", str(empty), "--protocol", protocol]
        assert cli_main.main(["evaluate", *arguments, "--report", str(tmp_path / "report")]) == 0
        printed = capsys.readouterr().out
        assert "frame-mAP    0.00" in printed
        assert "No true positives: there are no detections." in printed
    assert (
        cli_main.main(["evaluate", *files[2:], "--ground-truth", str(empty), "--detections", str(empty)]) == 2
    )
    assert "expected at least one row, got none" in capsys.readouterr().err


def test_chance_level_is_low_and_reproducible():
    truth, found = random_case(2, keyframes=60)
    boxes, first = np.unique(found.boxes, axis=0, return_index=True)
    persons = PersonBoxes(VIDEOS, found.video[first], found.timestamp[first], boxes, np.ones(len(first)))
    level = chance_level(truth, persons, LABEL_MAP, seed=3)
    assert 0 < level < 0.9
    assert level == chance_level(truth, persons, LABEL_MAP, seed=3)
    assert level != chance_level(truth, persons, LABEL_MAP, seed=4)


@pytest.fixture
def ava_files(tmp_path):
    truth, found = random_case(5, keyframes=30)
    files = SimpleNamespace(
        truth=tmp_path / "gt.csv", found=tmp_path / "d.csv", labels=tmp_path / "map.pbtxt"
    )
    write_action_csv(files.truth, truth, kind="ground_truth")
    write_action_csv(files.found, found)
    entries = zip(LABEL_MAP.names, LABEL_MAP.ids)
    files.labels.write_text("".join(f'item {{\n  name: "{name}"\n  id: {i}\n}}\n' for name, i in entries))
    return files


def test_command_prints_a_table_and_writes_json(ava_files, tmp_path, capsys):
    files = ["--ground-truth", str(ava_files.truth), "--detections", str(ava_files.found)]
    files += ["--label-map", str(ava_files.labels)]
    out = tmp_path / "result.json"
    assert cli_main.main(["evaluate", *files, "--json", str(out), "--iou", "0.5", "0.75"]) == 0
    printed = capsys.readouterr().out
    assert "protocol challenge" in printed
    assert "stand" in printed
    result = json.loads(out.read_text())
    expected = evaluate_frame_map(ava_files.truth, ava_files.found, ava_files.labels)
    assert result["mAP"] == expected.mean_ap
    assert result["per_class"]["stand"]["id"] == 5
    assert set(result["by_iou"]) == {"0.5", "0.75"}
    assert cli_main.main(["evaluate", *files, "--excluded", str(tmp_path / "none.csv")]) == 2
    assert "none.csv: no such file" in capsys.readouterr().err


def test_evaluator_agrees_with_its_detections_file(ava_files, tmp_path, monkeypatch):
    truth = read_action_csv(ava_files.truth)
    spec = SimpleNamespace(
        label_map=ava_files.labels, annotations=ava_files.truth, excluded=None, scored_classes=None
    )
    cfg = get_cfg()
    cfg.TEST.PROTOCOL = "slowfast"
    rng = np.random.default_rng(0)
    keyframes = sorted(set(zip(truth.videos[truth.video], truth.timestamp)))
    predictions = []
    for video, time in keyframes:
        own = truth.boxes[(truth.videos[truth.video] == video) & (truth.timestamp == time)]
        boxes = np.unique(own, axis=0).astype(np.float32)
        predictions.append(
            (video, time, boxes, torch.from_numpy(rng.random((len(boxes), 3), dtype=np.float32)))
        )

    def evaluated(evaluator, parts):
        for part in parts:
            video, time, boxes, scores = zip(*part)
            batch = {
                **{"video_name": list(video), "timestamp": list(time), "boxes_relative": list(boxes)},
                "person_scores": [torch.ones(len(own)) for own in boxes],
            }
            evaluator.process(batch, {"scores": list(scores)})
        return evaluator

    alone = evaluated(FrameMAPEvaluator(cfg, spec), [predictions[:5], predictions[5:]])
    metrics = alone.evaluate()
    assert metrics["frame_mAP"] == metrics["frame_mAP/slowfast"]
    alone.write(tmp_path / "out")
    written = tmp_path / "out" / "detections.csv"
    for protocol in ("challenge", "slowfast"):
        again = evaluate_frame_map(ava_files.truth, written, ava_files.labels, protocol=protocol)
        assert again.mean_ap == metrics[f"frame_mAP/{protocol}"]
    assert json.loads((tmp_path / "out" / "frame_map.json").read_text())["protocol"] == "slowfast"

    # The next evaluation does not read the annotations again.
    moved = ava_files.truth.rename(tmp_path / "moved.csv")
    alone.reset()
    assert evaluated(alone, [predictions]).evaluate() == metrics
    moved.rename(ava_files.truth)

    # Two processes. The second one pads its part with a keyframe of the first.
    shares = [
        evaluated(FrameMAPEvaluator(cfg, spec), [predictions[1::2]]),
        evaluated(FrameMAPEvaluator(cfg, spec), [predictions[0::2], predictions[1:2]]),
    ]
    gathered = []
    monkeypatch.setattr(
        "vmae_det.utils.distributed.all_gather_object", lambda part: gathered.append(part) or [part]
    )
    for share in shares:
        share.evaluate()
    monkeypatch.setattr("vmae_det.utils.distributed.all_gather_object", lambda _: gathered)
    assert all(share.evaluate() == metrics for share in shares)


def test_too_many_boxes_in_a_keyframe_are_rejected(tmp_path, capsys):
    (tmp_path / "map.pbtxt").write_text('item { name: "stand" id: 1 }\n')
    lines = [f"v,0902,0.1,0.1,0.5,{0.2 + k / 10000:.4f},1" for k in range(2001)]
    (tmp_path / "gt.csv").write_text("\n".join(lines))
    (tmp_path / "found.csv").write_text("\n".join(f"{line},0.5" for line in lines))
    files = ("--ground-truth", str(tmp_path / "gt.csv"), "--detections", str(tmp_path / "found.csv"))
    assert cli_main.main(["evaluate", *files, "--label-map", str(tmp_path / "map.pbtxt")]) == 2
    assert "in a keyframe and class, got 2001 boxes and 2001 detections" in capsys.readouterr().err
