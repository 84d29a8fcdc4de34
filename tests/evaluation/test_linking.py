"""Linking of tracks with known tubes, and the way from a detections file to video-mAP."""

import json

import numpy as np
import pytest

from vmae_det.cli import main as cli_main
from vmae_det.evaluation.linking import LINKING_METHODS, _best_boxes, link_boxes
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.tube_csv import Tubes, read_tubes, write_tubes
from vmae_det.utils.errors import DataError

LABELS = LabelMap((1, 2), ("run", "fall"), ("", ""))
WALKERS = {"left": (0.1, 0.01), "right": (0.6, -0.002)}  # x1 at frame 0, and its change per frame


def box(walker, frame):
    start, speed = WALKERS[walker]
    x = start + speed * frame
    return (round(x, 6), 0.2, round(x + 0.2, 6), 0.8)


def rows(entries):
    """Convert (frame, box, action, score) tuples of one video to detections and frame numbers."""
    frame, boxes, action, score = zip(*entries)
    count = len(entries)
    return ActionBoxes(
        np.array(["v"], dtype=object),
        np.zeros(count, dtype=np.int32),
        np.array(frame, dtype=np.float64),
        np.array(boxes, dtype=np.float64),
        np.array(action, dtype=np.int32),
        np.array(score, dtype=np.float64),
        np.full(count, -1, dtype=np.int32),
    ), np.array(frame)


def link(entries, method="act"):
    """Link the entries; return {(label, score): {frame: box}}."""
    tubes = link_boxes(*rows(entries), LABELS, LINKING_METHODS[method])
    found = {(label, round(score, 6)): {} for label, score in zip(tubes.label, tubes.score)}
    assert len(found) == len(tubes)
    for tube, frame, at in zip(tubes.tube, tubes.frame.tolist(), tubes.boxes.tolist()):
        found[tubes.label[tube], round(tubes.score[tube], 6)][frame] = tuple(np.round(at, 6))
    return found


def track(walker, frames, action=1, score=0.5):
    return [(f, box(walker, f), action, score) for f in frames]


@pytest.mark.parametrize("method", LINKING_METHODS)
def test_two_persons_are_two_tubes(method):
    left, right = track("left", range(20), score=0.9), track("right", range(3, 23), score=0.6)
    other = track("left", range(20), action=2, score=0.4)
    expected = {
        (label, score): {f: at for f, at, _, _ in entries}
        for label, score, entries in (("run", 0.9, left), ("run", 0.6, right), ("fall", 0.4, other))
    }
    rng = np.random.default_rng(0)
    mixed = [*left, *right, *other]
    assert link([mixed[i] for i in rng.permutation(len(mixed))], method) == expected


def test_score_is_the_mean_and_short_tubes_are_dropped():
    entries = [*track("left", range(14), score=0.9), (14, box("left", 14), 1, 0.1)]
    assert list(link(entries)) == [("run", round((14 * 0.9 + 0.1) / 15, 6))]
    assert link(entries[:-1]) == {}
    assert link(track("left", range(20), score=0.004)) == {}


def test_a_gap_ends_a_tube_of_act_and_is_filled_by_road():
    frames = [f for f in range(40) if f not in (20, 21)]
    entries = track("left", frames, score=0.5)
    parts = link_boxes(*rows(entries), LABELS, LINKING_METHODS["act"])
    assert np.bincount(parts.tube).tolist() == [20, 18]
    filled = link(entries, "road")
    assert filled == {("run", 0.5): {f: box("left", f) for f in range(40)}}
    assert (
        len(link_boxes(*rows(track("left", [*range(20), *range(26, 46)])), LABELS, LINKING_METHODS["road"]))
        == 2
    )


def test_sparse_keyframes_are_not_gaps():
    entries = track("left", range(0, 40, 4))
    assert link(entries) == {("run", 0.5): {f: box("left", f) for f in range(37)}}


def test_best_scored_box_with_sufficient_iou_is_taken():
    near = [(f, (x, 0.2, x + 0.2, 0.8), 1, s) for f in range(20) for x, s in ((0.1, 0.6), (0.16, 0.8))]
    # IoU 0.14 / 0.26, below 0.5, so these are two tubes.
    found = link(near)
    assert {key: {at[0] for at in boxes.values()} for key, boxes in found.items()} == {
        ("run", 0.8): {0.16},
        # A tube with IoU 0.538 with a better one is dropped, because the limit is 0.3.
    }
    apart = [(f, (x, 0.2, x + 0.2, 0.8), 1, s) for f in range(20) for x, s in ((0.1, 0.6), (0.25, 0.8))]
    assert set(link(apart)) == {("run", 0.8), ("run", 0.6)}


def test_soft_nms_of_boxes():
    """With an IoU of 0.19 / 0.21 = 0.905, the score of the second box is multiplied by 0.095."""
    pair = [(f, (x, 0.2, x + 0.2, 0.8), 1, s) for f in range(20) for x, s in ((0.1, 0.9), (0.11, 0.8))]
    boxes = np.array([at for f, at, _, _ in pair if f == 0])
    _, score = _best_boxes(boxes, np.array([0.9, 0.8]), 0.6)
    assert score == pytest.approx([0.9, 0.8 * (1 - 0.19 / 0.21)])
    assert list(link(pair)) == [("run", 0.9)]


def test_road_trims_tubes_to_the_action():
    """Background for 20 frames, the action for 30, background for 20."""
    score = [0.02] * 20 + [0.8] * 30 + [0.02] * 20
    entries = [(f, (0.1, 0.2, 0.3, 0.8), 1, s) for f, s in enumerate(score)]
    assert {key: sorted(boxes) for key, boxes in link(entries, "road").items()} == {
        ("run", 0.8): list(range(20, 50))
    }
    assert sorted(next(iter(link(entries, "act").values()))) == list(range(70))


def test_from_detections_to_video_map(tmp_path, capsys):
    """A frame every 0.04 s, with ground truth as `prepare` writes it."""
    times = {name: [round(0.04 * f, 3) for f in range(30)] for name in ("a", "b")}
    truth = Tubes(
        np.array(["a", "b"], dtype=object),
        np.array(["run", "fall"], dtype=object),
        np.ones(2),
        np.repeat([0, 1], 20),
        np.tile(np.arange(20), 2),
        np.array([box(walker, f) for walker in ("left", "right") for f in range(20)]),
    )
    write_tubes(tmp_path / "val_tubes.csv", truth, "ground_truth")
    keyframes = [f"{name},{time}\n" for name in times for time in times[name]]
    (tmp_path / "val.csv").write_text("".join(keyframes))
    (tmp_path / "map.pbtxt").write_text('item { name: "run" id: 1 } item { name: "fall" id: 2 }')
    lines = [
        f"{name},{times[name][f]},{','.join(map(str, box(walker, f)))},{action},{score}\n"
        for name, walker, right in (("a", "left", 1), ("b", "right", 2))
        for f in range(20)
        for action, score in ((right, 0.9), (3 - right, 0.1))
    ]
    (tmp_path / "d.csv").write_text("".join(lines))
    files = {
        name: str(tmp_path / name) for name in ("d.csv", "map.pbtxt", "val.csv", "val_tubes.csv", "t.csv")
    }
    command = ["link", files["d.csv"], "--label-map", files["map.pbtxt"], "--output", files["t.csv"]]
    for numbering in (["--keyframes", files["val.csv"]], ["--rate", "25"]):
        assert cli_main.main([*command, *numbering]) == 0
        assert "4 tubes with 80 boxes in 2 of 2 videos" in capsys.readouterr().out
        assert read_tubes(files["t.csv"], "detections").frame.max() == 19
        scored = ["evaluate", "--ground-truth", files["val_tubes.csv"], "--tubes", files["t.csv"]]
        assert cli_main.main([*scored, "--protocol", "jhmdb", "--json", str(tmp_path / "o.json")]) == 0
        result = json.loads((tmp_path / "o.json").read_text())
        assert set(result["video_mAP"].values()) == {1}
        assert result["frame_mAP"] == 1
        capsys.readouterr()
    assert cli_main.main([*command, "--rate", "25", "--first-frame", "1", "--min-frames", "5"]) == 0
    assert set(read_tubes(files["t.csv"], "detections").frame) == set(range(1, 21))

    for arguments, problem in (
        ([], "time 0.04 is not a frame number; add --rate FPS or --keyframes FILE"),
        (["--rate", "5"], "two keyframes of video 'a' map to frame 0; --rate may be too low"),
    ):
        capsys.readouterr()
        assert cli_main.main([*command, *arguments]) == 2
        assert problem in capsys.readouterr().err
    (tmp_path / "val.csv").write_text("".join(keyframes[:10] + keyframes[30:]))
    assert cli_main.main([*command, "--keyframes", files["val.csv"]]) == 2
    assert "keyframe 'a', 0.4 is not in" in capsys.readouterr().err
    (tmp_path / "val.csv").write_text("".join(keyframes[:30]))
    assert cli_main.main([*command, "--keyframes", files["val.csv"]]) == 2
    assert "video 'b' is not in" in capsys.readouterr().err


def test_annotations_are_linked_by_their_person_ids(tmp_path, capsys):
    """Persons who cross are not mixed up. Keyframe 13 is not annotated, and nobody runs at 16."""
    boxes = {7: (0.1, 0.05), 8: (0.5, -0.05)}  # x1 at second 10, and its change per second

    def line(person, second, action):
        x = boxes[person][0] + (second - 10) * boxes[person][1]
        return f"v,{second},{x:.3f},0.2,{x + 0.2:.3f},0.8,{action},{person}\n"

    lines = [line(person, second, 1) for second in (10, 11, 12, 14, 15, 17) for person in boxes]
    lines += [line(7, second, 2) for second in (11, 16)]
    (tmp_path / "gt.csv").write_text("".join(lines))
    (tmp_path / "map.pbtxt").write_text('item { name: "run" id: 1 } item { name: "fall" id: 2 }')
    command = ["link", str(tmp_path / "gt.csv"), "--label-map", str(tmp_path / "map.pbtxt")]
    command += ["--output", str(tmp_path / "t.csv"), "--ground-truth"]
    assert cli_main.main(command) == 0
    assert "6 tubes with 16 boxes in 1 of 1 videos" in capsys.readouterr().out
    tubes = read_tubes(tmp_path / "t.csv")
    found = {}
    for tube, frame, x in zip(tubes.tube.tolist(), tubes.frame.tolist(), tubes.boxes[:, 0]):
        found.setdefault((tubes.label[tube], tube), {})[frame] = round(float(x), 3)
    assert sorted(map(str, found.values())) == sorted(
        map(
            str,
            [
                {10: 0.1, 11: 0.15, 12: 0.2, 13: 0.25, 14: 0.3, 15: 0.35},
                {10: 0.5, 11: 0.45, 12: 0.4, 13: 0.35, 14: 0.3, 15: 0.25},
                *({17: 0.45}, {17: 0.15}, {11: 0.15}, {16: 0.4}),
            ],
        )
    )
    assert cli_main.main([*command, "--min-frames", "2"]) == 0
    assert len(read_tubes(tmp_path / "t.csv")) == 2
    # Keyframes are numbered in the order of the file, so 13 is not a gap.
    assert cli_main.main([*command, "--min-frames", "2", "--keyframes", str(tmp_path / "gt.csv")]) == 0
    assert sorted(read_tubes(tmp_path / "t.csv").frame) == sorted(2 * list(range(5)))
    for added, problem in (
        ("v,10,0.1,0.2,0.3,0.8,1\n", "gt.csv: keyframe 'v', 10, action 1: expected a person id in column 8"),
        (line(7, 10, 1), "gt.csv: keyframe 'v', 10, action 1: expected one box of person 7, got two"),
    ):
        (tmp_path / "gt.csv").write_text("".join([*lines, added]))
        assert cli_main.main(command) == 2
        assert problem in capsys.readouterr().err
    assert cli_main.main([*command, "--method", "road"]) == 2
    assert "--method: not used with --ground-truth" in capsys.readouterr().err


def test_integer_times_are_frame_numbers_and_empty_input_has_no_tubes(tmp_path, capsys):
    (tmp_path / "map.pbtxt").write_text('item { name: "run" id: 1 }')
    lines = [f"v,{902 + f:04d},0.1,0.1,0.5,0.9,1,0.7\n" for f in range(6)]
    (tmp_path / "d.csv").write_text("".join(lines))
    command = ["link", str(tmp_path / "d.csv"), "--label-map", str(tmp_path / "map.pbtxt")]
    command += ["--output", str(tmp_path / "t.csv")]
    assert cli_main.main([*command, "--min-frames", "6"]) == 0
    assert read_tubes(tmp_path / "t.csv", "detections").frame.tolist() == list(range(902, 908))
    assert cli_main.main(command) == 0
    assert "no tube has 15 frames" in capsys.readouterr().out
    (tmp_path / "d.csv").write_text("")
    assert cli_main.main(command) == 0
    assert len(read_tubes(tmp_path / "t.csv", "detections")) == 0
    (tmp_path / "d.csv").write_text("v,1,0.1,0.1,0.5,0.9,7,0.7\n")
    assert cli_main.main(command) == 2
    assert "none of its action ids is in" in capsys.readouterr().err


def test_too_large_frame_number(tmp_path, capsys):
    (tmp_path / "map.pbtxt").write_text('item { name: "run" id: 1 }')
    (tmp_path / "d.csv").write_text("v,900000000,0.1,0.1,0.5,0.9,1,0.7\n")
    command = ["link", str(tmp_path / "d.csv"), "--label-map", str(tmp_path / "map.pbtxt")]
    assert cli_main.main([*command, "--output", str(tmp_path / "t.csv"), "--rate", "25"]) == 2
    assert "expected frame numbers up to 1e+09, got 22500000000" in capsys.readouterr().err


def test_names_with_commas_or_quotes_are_rejected(tmp_path):
    tubes = link_boxes(*rows(track("left", range(20))), LabelMap((1,), ("talk to (e.g., self)",), ("",)))
    with pytest.raises(DataError, match="expected names without commas and quotes, got"):
        write_tubes(tmp_path / "t.csv", tubes)
