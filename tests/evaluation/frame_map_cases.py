"""Small cases of frame-mAP, and the metric as one would write it without a thought of speed."""

from collections import defaultdict

import numpy as np

from vmae_det.data.annotations import ActionBoxes, LabelMap

LABEL_MAP = LabelMap((2, 5, 9), ("sit", "stand", "talk"), ("", "", ""))
VIDEOS = np.array(["a", "b"], dtype=object)


def rows(entries):
    """(video, time, box, action, score) tuples as columns."""
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
    """Crowded keyframes, near hits, other actions, keyframes of one side only."""
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
    """Frame-mAP as one would write it without a thought of speed; scores differ."""

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
