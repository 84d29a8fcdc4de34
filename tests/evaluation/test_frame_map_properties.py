"""Property-based tests of frame-mAP, with a slow reference. Ties in score and IoU are frequent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_det.evaluation import matching
from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.frame_map import FrameMAP, frame_map
from vmae_det.evaluation.matching import PROTOCOLS, match
from vmae_det.formats.ava_csv import ActionBoxes, LabelMap

LABEL_MAP = LabelMap((5, 2), ("stand", "sit"), ("", ""))
CAP = 2
quick = settings(max_examples=60, deadline=None, derandomize=True)

grid = st.integers(0, 4)
keyframe = st.sampled_from([("a", 1.0), ("a", 1.0), ("a", 2.5), ("b", 1.0)])
any_box = st.tuples(grid, grid, grid, grid).map(
    lambda c: (min(c[0], c[2]) / 4, min(c[1], c[3]) / 4, max(c[0], c[2]) / 4, max(c[1], c[3]) / 4)
)
valid_box = any_box.filter(lambda box: box[0] < box[2] and box[1] < box[3])
action = st.sampled_from([2, 5, 5, 77])
truth_rows = st.lists(st.tuples(keyframe, valid_box, action, st.just(1.0)), max_size=9).map(
    lambda rows: [(("a", 1.0), (0.0, 0.0, 0.5, 1.0), 5, 1.0), *rows]
)
found_rows = st.lists(st.tuples(keyframe, any_box, action, st.sampled_from([0.25, 0.5])), max_size=18)
excluded_sets = st.sets(keyframe.filter(lambda name: name != ("a", 1.0)), max_size=2)
protocols = st.sampled_from(PROTOCOLS)


@pytest.fixture(autouse=True, scope="module")
def small_cap():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_MAX_ROWS_PER_KEYFRAME", CAP)
        yield


def columns(rows):
    """Convert (keyframe, box, action, score) tuples to ActionBoxes."""
    count = len(rows)
    return ActionBoxes(
        np.array(["a", "b"], dtype=object),
        np.array(["ab".index(row[0][0]) for row in rows], dtype=np.int32),
        np.array([row[0][1] for row in rows], dtype=np.float64),
        np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row[2] for row in rows], dtype=np.int32),
        np.array([row[3] for row in rows], dtype=np.float64),
        np.full(count, -1, dtype=np.int32),
    )


def overlap(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)


def reference(truth, found, protocol, excluded, iou, tie=lambda row: (row[0], row[2], row[1])):
    """Return AP of each class by the definition, row by row. `tie` is the sort key of rows of equal score."""
    found = [row for row in found if row[0] not in excluded and row[2] in LABEL_MAP.ids]
    if protocol == "mmaction2":
        truth = [row for row in truth if row[2] in LABEL_MAP.ids]
        found = [row for row in found if row[0] in {other[0] for other in truth}]
        claimed = {row[2] for row in found}
        if claimed & {row[2] for row in truth}:
            truth = [row for row in truth if row[2] in claimed]
    else:
        truth = [row for row in truth if row[0] not in excluded]
    if protocol == "challenge":
        kept = []
        for name in sorted({row[0] for row in truth}):
            own = [row for row in found if row[0] == name]
            kept += sorted(own, key=lambda row: (-row[3], tie(row)))[:CAP]
        found = kept
    result = []
    for action_id in LABEL_MAP.ids:
        judged = []
        for name in {row[0] for row in found}:
            boxes = sorted(row[1] for row in truth if row[0] == name and row[2] == action_id)
            own = [row for row in found if row[0] == name and row[2] == action_id]
            if protocol != "mmaction2":
                own = [row for row in own if row[1][0] < row[1][2] and row[1][1] < row[1][3]]
            if protocol != "slowfast":
                own.sort(key=lambda row: (-row[3], tie(row)))
            taken = set()
            for row in own:
                overlaps = [overlap(row[1], box) for box in boxes]
                best = overlaps.index(max(overlaps)) if overlaps else None
                hit = best is not None and overlaps[best] >= iou and best not in taken
                if hit:
                    taken.add(best)
                judged.append((-row[3], tie(row), hit))
        judged.sort(key=lambda entry: entry[:2])
        hits = [entry[2] for entry in judged]
        precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
        count = sum(row[2] == action_id for row in truth)
        area = sum(max(precision[i:]) for i, hit in enumerate(hits) if hit)
        result.append(area / count if count else np.nan)
    return result


@quick
@given(truth_rows, found_rows, protocols, excluded_sets, st.sampled_from([0.2, 0.5, 0.75, 1.0]))
def test_agrees_with_the_definition(truth, found, protocol, excluded, iou):
    result = frame_map(columns(truth), columns(found), LABEL_MAP, iou, excluded=excluded, protocol=protocol)
    np.testing.assert_allclose(result.ap, reference(truth, found, protocol, excluded, iou), atol=1e-12)


@quick
@given(truth_rows, found_rows, protocols, st.randoms(use_true_random=False))
def test_every_order_of_ties_is_within_the_range(truth, found, protocol, random):
    found = [(*row, i) for i, row in enumerate(found)]
    low, high = frame_map(columns(truth), columns(found), LABEL_MAP, protocol=protocol).ap_range.T
    for _ in range(5):
        order = random.sample(range(len(found)), len(found))
        ap = reference(truth, found, protocol, (), 0.5, tie=lambda row, order=order: order[row[4]])
        assert (np.isnan(ap) | ((low <= np.add(ap, 1e-12)) & (high >= np.subtract(ap, 1e-12)))).all()


@quick
@given(truth_rows, found_rows, st.sampled_from(["slowfast", "mmaction2"]))
def test_bounds_of_the_range_are_reached(truth, found, protocol):
    """Without a cap, ordering all true positives of a tie first or last reaches the bounds."""
    result = frame_map(columns(truth), columns(found), LABEL_MAP, protocol=protocol)
    matches = match(columns(truth), columns(found), LABEL_MAP, protocol=protocol)
    hit = matches.true_positives(0.5)
    for column, count in enumerate(matches.num_ground_truth):
        own = np.flatnonzero(matches.detections.column == column)
        for end, sign in ((0, 1), (1, -1)):
            entries = sorted((-matches.detections.score[i], sign * int(hit[i])) for i in own)
            hits = [entry[1] != 0 for entry in entries]
            if count:
                expected = average_precision(np.array(hits, dtype=bool), count)
                assert result.ap_range[column, end] == pytest.approx(expected)


@quick
@given(truth_rows, found_rows, st.randoms(use_true_random=False))
def test_row_order_does_not_matter(truth, found, random):
    """For slowfast, which matches in row order, the order within a keyframe is kept."""
    shuffled = {name: list(rows) for name, rows in (("truth", truth), ("found", found))}
    for rows in shuffled.values():
        random.shuffle(rows)
    expected = frame_map(columns(truth), columns(found), LABEL_MAP)
    again = frame_map(columns(shuffled["truth"]), columns(shuffled["found"]), LABEL_MAP)
    np.testing.assert_array_equal(again.ap, expected.ap)

    names = sorted({row[0] for row in found})
    random.shuffle(names)
    regrouped = sorted(found, key=lambda row: names.index(row[0]))
    expected = frame_map(columns(truth), columns(found), LABEL_MAP, protocol="slowfast")
    again = frame_map(columns(shuffled["truth"]), columns(regrouped), LABEL_MAP, protocol="slowfast")
    np.testing.assert_array_equal(again.ap, expected.ap)


@quick
@given(truth_rows, protocols, st.sampled_from([0.5, 1.0]))
def test_a_perfect_detector_scores_one(truth, protocol, iou):
    """Each box is detected once. Keyframes have no more rows than the cap of the challenge."""
    once = list(dict.fromkeys(truth))
    names = [row[0] for row in once]
    perfect = columns([row for i, row in enumerate(once) if names[:i].count(names[i]) < CAP])
    assert frame_map(perfect, perfect, LABEL_MAP, iou, protocol=protocol).mean_ap == 1


@quick
@given(truth_rows, found_rows, protocols, keyframe, st.sampled_from(LABEL_MAP.ids))
def test_a_lower_scored_false_positive_never_raises_ap(truth, found, protocol, name, action_id):
    false = (name, (0.99, 0.99, 1.0, 1.0), action_id, -1.0)
    before = frame_map(columns(truth), columns(found), LABEL_MAP, protocol=protocol).ap
    after = frame_map(columns(truth), columns([*found, false]), LABEL_MAP, protocol=protocol).ap
    assert (np.nan_to_num(after) <= np.nan_to_num(before)).all()


@quick
@given(truth_rows, found_rows, protocols)
def test_one_match_for_several_thresholds(truth, found, protocol):
    matches = match(columns(truth), columns(found), LABEL_MAP, protocol=protocol)
    for iou in (0.25, 0.5, 0.9):
        alone = frame_map(columns(truth), columns(found), LABEL_MAP, iou, protocol=protocol)
        np.testing.assert_array_equal(FrameMAP.from_matches(matches, iou).ap, alone.ap)


@quick
@given(truth_rows, found_rows, protocols, st.sampled_from([0.2, 0.5]))
def test_matches_of_each_detection(truth, found, protocol, iou):
    matches = match(columns(truth), columns(found), LABEL_MAP, protocol=protocol)
    hit, best, overlaps = matches.true_positives(iou), matches.best_box(), matches.iou()
    for i, row in enumerate(matches.detections.row):
        name, box, action_id, score = found[row]
        rivals = [other[1] for other in truth if other[0] == name and other[2] == action_id]
        assert matches.detections.score[i] == score
        assert overlaps[i] == pytest.approx(max((overlap(box, rival) for rival in rivals), default=0))
        assert (best[i] >= 0) == bool(rivals)
        if rivals:
            chosen = truth[matches.ground_truth.row[best[i]]]
            assert chosen[0] == name
            assert chosen[2] == action_id
            assert overlap(box, chosen[1]) == pytest.approx(overlaps[i])
        assert not hit[i] or overlaps[i] >= iou
    taken = best[hit]
    assert len(set(taken.tolist())) == len(taken)
    for column, curve in enumerate(matches.precision_recall(iou)):
        assert (np.diff(curve.score) <= 0).all()
        own = matches.detections.column == column
        if own.any() and matches.num_ground_truth[column]:
            assert curve.recall[-1] == pytest.approx(hit[own].sum() / matches.num_ground_truth[column])
            assert curve.precision[-1] == pytest.approx(hit[own].mean())
