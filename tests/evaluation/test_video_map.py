import json
from itertools import pairwise

import numpy as np
import pytest

from vmae_det.cli import main as cli_main
from vmae_det.evaluation.average_precision import trapezoid_area
from vmae_det.evaluation.tube_matching import tube_iou
from vmae_det.evaluation.video_map import video_map
from vmae_det.formats.tube_csv import read_tubes
from vmae_det.utils.errors import DataError, UserError


def write(path, tubes):
    """Write (video, tube, label, score, {frame: box}) tuples to a tube CSV."""
    lines = [
        f"{video},{tube},{label},{score},{frame},{','.join(map(str, box))}"
        for video, tube, label, score, boxes in tubes
        for frame, box in boxes.items()
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def random_tubes(seed):
    """Generate tubes of two classes and videos, some with gaps, and similar detections of distinct scores."""
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


def box_overlap(a, b, pixel):
    width, height = (max(0, min(a[i + 2], b[i + 2]) + pixel - max(a[i], b[i])) for i in (0, 1))
    area = sum((box[2] - box[0] + pixel) * (box[3] - box[1] + pixel) for box in (a, b))
    return width * height / (area - width * height)


def tube_overlap(a, b, pixel=0, last_frame=1):
    common, every = set(a) & set(b), set(a) | set(b)
    if not common or len(every) - 1 + last_frame == 0:
        return 0.0
    share = (len(common) - 1 + last_frame) / (len(every) - 1 + last_frame)
    return share * np.mean([box_overlap(a[f], b[f], pixel) for f in common])


def reference(truth, found, label, threshold, *, next_best, envelope, **counting):
    """Return AP of one class, computed tube by tube."""
    own = [tube for tube in truth if tube[2] == label]
    free, points = list(own), [(0.0, 1.0)]
    for tube in sorted((tube for tube in found if tube[2] == label), key=lambda tube: -tube[3]):
        rivals = [other for other in (free if next_best else own) if other[0] == tube[0]]
        overlaps = [tube_overlap(other[4], tube[4], **counting) for other in rivals]
        best = rivals[overlaps.index(max(overlaps))] if overlaps and max(overlaps) >= threshold else None
        if best in free:
            free.remove(best)
        true = len(own) - len(free)
        points.append((true / len(own), true / len(points)))
    area = 0.0
    for i, ((before, high), (recall, precision)) in enumerate(pairwise(points), start=1):
        height = max(p for _, p in points[i:]) if envelope else (high + precision) / 2
        area += (recall - before) * height
    return area


def in_frames(tubes):
    """Convert each box to a tube of one frame."""
    return [
        (f"{video} {frame}", tube, label, score, {frame: box})
        for video, tube, label, score, boxes in tubes
        for frame, box in boxes.items()
    ]


ACT, VOC = {"next_best": True, "envelope": False}, {"next_best": False, "envelope": True}
RULES = {
    "continuous": (ACT, VOC, {}),
    "act": (ACT, ACT, {"pixel": 1}),
    "ucf101-24": (ACT, ACT, {"pixel": 1}),
    "jhmdb": (ACT, ACT, {"pixel": 1}),
    "multisports": (VOC, VOC, {"last_frame": 0}),
}


@pytest.mark.parametrize("protocol", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_plain_definition(tmp_path, seed, protocol):
    truth, found = random_tubes(seed)
    in_tubes, in_boxes, counting = RULES[protocol]
    result = video_map(
        read_tubes(write(tmp_path / "gt.csv", truth)),
        read_tubes(write(tmp_path / "d.csv", found), "detections"),
        protocol,
    )
    assert list(result.labels) == sorted({tube[2] for tube in truth})
    for i, label in enumerate(result.labels):
        for k, threshold in enumerate(result.thresholds):
            expected = reference(truth, found, label, threshold, **in_tubes, **counting)
            assert result.ap[i, k, 0] == pytest.approx(expected, abs=1e-12)
        boxes = in_frames(truth), in_frames(found)
        pixel = {"pixel": counting.get("pixel", 0)}
        # Boxes of a tube have equal scores, so only the range is compared.
        low, high = result.frame_ap[i, 1:]
        assert low - 1e-12 <= reference(*boxes, label, 0.5, **in_boxes, **pixel) <= high + 1e-12


def test_averages_are_over_their_thresholds(tmp_path):
    truth = [("v", 1, "run", "", {f: [0, 0, 10, 10] for f in range(101)})]
    # 57 of 101 frames, or 56 of 100 with one frame less.
    found = [("v", 1, "run", 0.5, {f: [0, 0, 10, 10] for f in range(57)})]
    files = write(tmp_path / "gt.csv", truth), write(tmp_path / "d.csv", found)
    tubes = read_tubes(files[0]), read_tubes(files[1], "detections")
    averages = video_map(*tubes, "multisports").to_json()["video_mAP"]
    assert averages == pytest.approx(
        {"0.2": 1, "0.5": 1, "0.05:0.45": 1, "0.10:0.90": 5 / 9, "0.5:0.95": 2 / 10}
    )
    at = video_map(*tubes, "act", thresholds=[0.56, 0.57]).to_json()["video_mAP"]
    assert at == pytest.approx({"0.56": 1, "0.57": 0, "0.5:0.95": 2 / 10})  # 57 of 101


def test_rare_classes_of_multisports_are_ignored(tmp_path):
    rare = "basketball save"
    truth = [("v", i, label, "", {1: [0, 0, 9, 9], 2: [0, 0, 9, 9]}) for i, label in enumerate(("run", rare))]
    found = [("v", 1, "run", 0.5, truth[0][4]), ("v", 2, "walk", 0.5, truth[0][4])]
    files = write(tmp_path / "gt.csv", truth), write(tmp_path / "d.csv", found)
    tubes = read_tubes(files[0]), read_tubes(files[1], "detections")
    scored = video_map(*tubes, "multisports")
    assert (scored.labels, scored.num_scored, scored.num_detections) == (("run",), 1, 2)
    assert scored.to_json()["video_mAP"]["0.5"] == 1
    assert video_map(*tubes, "act").to_json()["video_mAP"]["0.5"] == 0.5
    assert video_map(*tubes, "act", labels=["run", "jump"]).to_json()["video_mAP"]["0.5"] == 1
    with pytest.raises(DataError, match="no ground truth to score: no tube has a scored label"):
        video_map(*tubes, "multisports", labels=[rare])


def test_relative_boxes_and_pixels(tmp_path):
    """The same boxes in frames of 320 x 240. IoU is 11 x 5 / (11 x 11) in inclusive pixels."""

    def tubes(name, kind, box, score=""):
        return read_tubes(write(tmp_path / name, [("v", 1, "run", score, {3: box})]), kind)

    pixels = tubes("gt.csv", "ground_truth", [20, 40, 30, 50])
    relative = tubes("r.csv", "ground_truth", [20 / 320, 40 / 240, 30 / 320, 50 / 240])
    found = tubes("d.csv", "detections", [20, 40, 30, 44], 0.5)
    found_relative = tubes("dr.csv", "detections", [20 / 320, 40 / 240, 30 / 320, 44 / 240], 0.5)
    for truth in (pixels, relative):
        for detections in (found, found_relative):
            for protocol in ("ucf101-24", "jhmdb"):
                result = video_map(truth, detections, protocol, thresholds=[0.45, 0.46]).to_json()
                assert result["video_mAP"]["0.45"] == 1
                assert result["video_mAP"]["0.46"] == 0
    with pytest.raises(DataError, match="protocol act expects boxes in pixels, got boxes relative"):
        video_map(relative, found_relative, "act")
    for protocol in ("act", "continuous", "multisports"):
        with pytest.raises(DataError, match="got pixels in the ground truth, relative in the detections"):
            video_map(pixels, found_relative, protocol)


def test_range_of_ties(tmp_path):
    truth = [("v", 1, "run", "", {1: [0, 0, 10, 10]})]
    found = [
        ("v", 2, "run", 0.5, {1: [0, 0, 10, 10]}),
        *(("v", i, "run", 0.5, {1: [50, 50, 60, 60]}) for i in (1, 3)),
    ]
    files = write(tmp_path / "gt.csv", truth), write(tmp_path / "d.csv", found)
    result = video_map(read_tubes(files[0]), read_tubes(files[1], "detections")).to_json()
    # The true tube comes first, second (as it does by its id) or third.
    assert result["video_mAP"]["0.5"] == pytest.approx((0 + 1 / 2) / 2)
    assert result["video_mAP_range"]["0.5"] == pytest.approx([(0 + 1 / 3) / 2, 1])
    assert result["frame_mAP_range"] == pytest.approx([1 / 3, 1])


def test_competitors_of_equal_score_are_counted(tmp_path):
    """Two tubes compete for one ground truth, and one could take another: one hit or two by order."""
    truth = [("v", i, "run", "", {1: [x, 0, x + 10, 10]}) for i, x in ((1, 0), (2, 4))]
    found = [("v", i, "run", 0.5, {1: [x, 0, x + 10, 10]}) for i, x in ((1, 1), (2, -2))]
    files = write(tmp_path / "gt.csv", truth), write(tmp_path / "d.csv", found)
    tubes = read_tubes(files[0]), read_tubes(files[1], "detections")
    assert video_map(*tubes).num_tied == 2
    assert "2 tubes compete with one of equal score" in video_map(*tubes).table()
    assert video_map(*tubes, "multisports").num_tied == 0


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([], "there are no detections"),
        ([("w", 1, "run", 1, {5: [0, 0, 9, 9]})], "no video id is in both files: the ground truth has 'v'"),
        ([("v", 1, "Run", 1, {5: [0, 0, 9, 9]})], "no label is in both files: the ground truth has 'run'"),
        (
            [("v", 1, "run", 1, {9: [0, 0, 9, 9]})],
            "video 'v' has frames 5 to 6 in the ground truth, 9 to 9 in the detections",
        ),
        ([("v", 1, "run", 1, {5: [8, 8, 20, 20]})], "the highest IoU with a ground-truth tube is 0.00"),
    ],
)
@pytest.mark.parametrize("protocol", RULES)
def test_zero_is_explained(tmp_path, found, problem, protocol):
    truth = [("v", 1, "run", "", {5: [0, 0, 9, 9], 6: [0, 0, 9, 9]})]
    files = write(tmp_path / "gt.csv", truth), write(tmp_path / "d.csv", found)
    result = video_map(read_tubes(files[0]), read_tubes(files[1], "detections"), protocol)
    assert set(result.to_json()["video_mAP"].values()) == {0}
    if "highest" not in problem or protocol != "multisports":
        assert problem in result.problem
    assert result.problem in result.table()


@pytest.mark.parametrize(
    ("first", "others", "warns"), [(1, 0, True), (0, 1, True), (1, 1, False), (2, 0, False)]
)
def test_warning_about_different_first_frames(tmp_path, first, others, warns):
    box = [10, 10, 50, 50]
    truth, found = (
        write(tmp_path / name, [("v", 0, "run", 1, {start + i: box for i in range(10)})])
        for name, start in (("truth.csv", first), ("found.csv", others))
    )
    result = video_map(read_tubes(truth), read_tubes(found, kind="detections"))
    assert ("WARNING: the first frame is" in result.table()) == warns
    assert bool(result.to_json()["warning"]) == warns


def test_tube_iou_by_hand(tmp_path):
    truth = write(tmp_path / "gt.csv", [("v", 1, "run", "", {f: [0, 0, 10, 10] for f in range(4)})])
    # Frames 2..5: 2 of 6 are shared, with IoU 1/2 and 1.
    boxes = {2: [0, 0, 10, 5], 3: [0, 0, 10, 10], 4: [0, 0, 1, 1], 5: [0, 0, 1, 1]}
    found = write(tmp_path / "d.csv", [("v", 7, "run", 0.5, boxes), ("w", 7, "run", 0.5, boxes)])
    pairs = tube_iou(read_tubes(truth), read_tubes(found, "detections"))
    assert pairs.iou == pytest.approx([2 / 6 * 0.75])


def test_next_best_tube_is_taken(tmp_path):
    """Unlike in frame-mAP."""
    truth = [("v", i, "run", "", {1: [i, 0, 10 + i, 10]}) for i in (0, 1)]
    found = [("v", i, "run", 0.9 - i / 10, {1: [0, 0, 10, 10]}) for i in (0, 1)]
    files = write(tmp_path / "gt.csv", truth), write(tmp_path / "d.csv", found)
    result = video_map(read_tubes(files[0]), read_tubes(files[1], "detections")).to_json()
    assert result["video_mAP"]["0.5"] == 1
    assert result["frame_mAP"] == 0.5


def test_trapezoid_area():
    # Recall 1/2, 1/2, 1 at precision 1, 1/2, 2/3.
    assert trapezoid_area(np.array([1, 3]), 2) == pytest.approx(0.5 + (1 / 2 + 2 / 3) / 2 / 2)
    assert trapezoid_area(np.array([], dtype=int), 2) == 0


def test_command_scores_tubes(tmp_path, capsys):
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


def test_options_of_other_metrics_are_rejected(tmp_path, capsys):
    truth = write(tmp_path / "gt.csv", random_tubes(0)[1])
    files = ["evaluate", "--ground-truth", str(truth), "--tubes", str(truth)]
    for option, users in (
        ("--report", "--detections or --classes"),
        ("--compare", "--detections"),
        ("--excluded", "--detections or --person-boxes"),
        ("--images", "--person-boxes"),
    ):
        assert cli_main.main([*files, option, str(tmp_path / "x")]) == 2
        assert f"{option} requires {users}; it cannot be used with --tubes" in capsys.readouterr().err
    assert cli_main.main([*files, "--protocol", "challenge"]) == 2
    assert (
        "--protocol challenge cannot be used with --tubes; expected one of continuous, act"
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match=r"IoU thresholds must be in \(0, 1\], got 50"):
        video_map(read_tubes(truth), read_tubes(truth, "detections"), thresholds=[50])
    for kind, option, value in (
        ("--person-boxes", "--protocol", "challenge"),
        ("--person-boxes", "--iou", "0.5"),
        ("--person-boxes", "--label-map", "x"),
        ("--detections", "--images", "x"),
        ("--detections", "--protocol", "act"),
    ):
        assert cli_main.main(["evaluate", "--ground-truth", str(truth), kind, "x", option, value]) == 2
        assert f"with {kind}" in capsys.readouterr().err


def test_label_map_selects_actions(tmp_path):
    truth = [("v", i, label, "", {1: [0, 0, 9, 9]}) for i, label in enumerate(("run", "jump"))]
    found = write(tmp_path / "d.csv", [("v", 1, "run", 0.5, truth[0][4])])
    (tmp_path / "map.pbtxt").write_text('item { name: "run" id: 1 }')
    out = tmp_path / "out.json"
    files = ["evaluate", "--ground-truth", str(write(tmp_path / "gt.csv", truth)), "--tubes", str(found)]
    assert cli_main.main([*files, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["video_mAP"]["0.5"] == 0.5
    arguments = ["--label-map", str(tmp_path / "map.pbtxt"), "--iou", "0.3", "--protocol", "act"]
    assert cli_main.main([*files, "--json", str(out), *arguments]) == 0
    result = json.loads(out.read_text())
    assert result["video_mAP"] == {"0.3": 1, "0.5:0.95": 1}
    assert result["protocol"] == "act"


GOOD = "v,1,run,0.5,3,0,0,10,10"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v,1,run,0.5,4,0,0,10", "expected 9 columns"),
        ("v,1,walk,0.5,4,0,0,10,10", "label and score of tube 1 of v differ"),
        ("v,1,run,0.6,4,0,0,10,10", "label and score of tube 1 of v differ"),
        (GOOD, "duplicate frame 3 of tube 1 of v"),
        ("v,x,run,0.5,4,0,0,10,10", "the tube id must be an integer"),
        ("v,1,run,,4,0,0,10,10", "the score must be a number"),
        ("v,1,run,0.5,4.5,0,0,10,10", "the frame must be an integer"),
        ("v,1,run,0.5,-4,0,0,10,10", "the frame must be an integer from 0"),
        ("v,1,run,0.5,4,20,0,10,10", "x1 must be smaller than x2"),
        (",1,run,0.5,4,0,0,10,10", "the video id must be plain text"),
    ],
)
def test_malformed_line_is_reported(tmp_path, line, message):
    path = tmp_path / "d.csv"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(DataError, match=rf"d\.csv:2: {message}"):
        read_tubes(path, "detections")
