"""How well boxes of keyframes are linked to people, by Tracker and by overlap alone, held against the person
ids of a dataset's annotations.

    python tools/measure_tracking.py mini_ava_val

prints for the annotated boxes, and for those of its person boxes that show an annotated person (IoU 0.5), the
IDF1 (Ristani et al., 2016: F1 of boxes whose track is the one assigned to their person) and how often a
person's track changes from one keyframe to the next.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from vmae_det.data.catalog import get_dataset
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.inference.tracking import Tracker

Keyframe = tuple[float, np.ndarray, np.ndarray, np.ndarray]  # second, boxes, scores, persons (-1: nobody)
Update = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


class GreedyOverlap:
    """Links the boxes of consecutive keyframes that overlap most, while the IoU is above 0.2."""

    def __init__(self) -> None:
        self.boxes, self.numbers, self.count = np.zeros((0, 4)), np.zeros(0, np.int64), 0

    def update(self, boxes: np.ndarray, scores: np.ndarray, time: float) -> np.ndarray:
        """As of Tracker."""
        numbers = np.zeros(len(boxes), np.int64)
        overlap = _iou(self.boxes, boxes)
        while overlap.size and overlap.max() > 0.2:
            before, now = np.unravel_index(overlap.argmax(), overlap.shape)
            numbers[now] = self.numbers[before]
            overlap[before], overlap[:, now] = -1, -1
        new = np.flatnonzero(numbers == 0)
        numbers[new] = self.count + 1 + np.arange(len(new))
        self.count += len(new)
        self.boxes, self.numbers = boxes, numbers
        return numbers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("dataset", help="a detection dataset whose annotations have person ids")
    parser.add_argument("--score", type=float, default=0.5, help="lowest of a person box (%(default)s)")
    args = parser.parse_args()
    spec = get_dataset(args.dataset)
    truth = read_action_csv(spec.annotations, kind="ground_truth")
    kinds = {"annotated boxes": list(annotated(truth))}
    if spec.person_boxes is not None:
        kinds["person boxes"] = list(detected(kinds["annotated boxes"], truth, spec.person_boxes, args.score))
    print(f"{'boxes':18}{'linking':10}{'IDF1':>6}{'changes':>9}{'links':>7}")
    for name, videos in kinds.items():
        for method, make in (("greedy", GreedyOverlap), ("Tracker", Tracker)):
            idf1, changes, links = measure(videos, make)
            print(f"{name:18}{method:10}{idf1:6.3f}{changes:9d}{links:7d}")


def annotated(truth: ActionBoxes) -> Iterator[list[Keyframe]]:
    """The keyframes of each video, with each person once."""
    for number in range(len(truth.videos)):
        own = truth.select((truth.video == number) & (truth.person >= 0))
        keyframes = []
        for time in np.unique(own.timestamp):
            rows = own.select(own.timestamp == time)
            persons, first = np.unique(rows.person, return_index=True)
            keyframes.append((float(time), rows.boxes[first], np.ones(len(first)), persons))
        yield keyframes


def detected(
    videos: list[list[Keyframe]], truth: ActionBoxes, path: str, least: float
) -> Iterator[list[Keyframe]]:
    """The same of detected boxes, which belong to the annotated person that they show."""
    persons = read_person_boxes(path)
    persons = persons.select(persons.score >= least)
    for name, keyframes in zip(truth.videos, videos):
        found = []
        for time, true_boxes, _, true_persons in keyframes:
            boxes, scores = persons.at(str(name), time)
            overlap = _iou(true_boxes, boxes)
            who = np.full(len(boxes), -1)
            for i, j in zip(*linear_sum_assignment(overlap, maximize=True)):
                if overlap[i, j] >= 0.5:
                    who[j] = true_persons[i]
            found.append((time, boxes, scores, who))
        yield found


def measure(videos: list[list[Keyframe]], make: Callable[[], Tracker]) -> tuple[float, int, int]:
    """IDF1, how often a person's track changes, and out of how many times that it could."""
    right = boxes_seen = people_seen = changes = links = 0
    for keyframes in videos:
        tracker, together, last = make(), Counter(), {}
        for time, boxes, scores, persons in keyframes:
            tracks = tracker.update(boxes, scores, time)
            boxes_seen += len(boxes)
            for track, person in zip(tracks.tolist(), persons.tolist()):
                if person < 0:
                    continue
                people_seen += 1
                together[person, track] += 1
                links += person in last
                changes += last.get(person, track) != track
                last[person] = track
        right += _best_assignment(together)
    return 2 * right / (boxes_seen + people_seen), changes, links


def _best_assignment(together: Counter) -> int:
    """Boxes that are right when each person is assigned one track, and each track one person, at best."""
    persons, tracks = (sorted({pair[side] for pair in together}) for side in (0, 1))
    table = np.array([[together[person, track] for track in tracks] for person in persons])
    return int(table[linear_sum_assignment(table, maximize=True)].sum()) if table.size else 0


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return box_iou(torch.from_numpy(a.reshape(-1, 4)), torch.from_numpy(b.reshape(-1, 4))).numpy()


if __name__ == "__main__":
    main()
