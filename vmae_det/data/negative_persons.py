"""Negatives of detection training: persons of `person_boxes` that match no annotated box.

AVA's annotations have no row for a person without an action. So the annotated boxes of a set with one class
are all positives, from which a detector learns nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.box_iou import box_iou
from vmae_det.formats.keyframes import keyframe_keys
from vmae_det.formats.person_boxes import PersonBoxes

# Persons with this IoU or more with an annotated box are not negatives. Evaluation matches boxes from an IoU
# of 0.5 on. A person box between the two may be a poor box of the annotated person, so it is not used.
MAX_IOU = 0.3


def add_negative_persons(
    rows: ActionBoxes, persons: PersonBoxes, keyframes: str, score: float
) -> ActionBoxes:
    """Append the negatives among `persons` to annotated boxes, as rows with the action -1.

    A negative has a score of at least `score`, and an IoU below `MAX_IOU` with each annotated box of its
    keyframe. Only videos that `rows` name have negatives.

    Args:
        rows: annotated boxes. A row without a box names a keyframe in which nobody has an action.
        keyframes: "annotated_keyframes": negatives only in keyframes that `rows` name. "all_keyframes": in
            other keyframes too.
    """
    index = {name: number for number, name in enumerate(rows.videos)}
    video = np.array([index.get(name, -1) for name in persons.videos], dtype=np.int32)[persons.video]
    kept = (persons.score >= score) & (video >= 0)
    persons, video = persons.select(kept), video[kept]

    row_keys = keyframe_keys(rows.video, rows.timestamp)
    order = np.argsort(row_keys, kind="stable")
    keys, start, size = np.unique(row_keys[order], return_index=True, return_counts=True)
    person_keys = keyframe_keys(video, persons.timestamp)
    keyframe = np.searchsorted(keys, person_keys).clip(max=len(keys) - 1)
    named = keys[keyframe] == person_keys
    # All pairs of a person and a row of its keyframe.
    pairs = np.where(named, size[keyframe], 0)
    person = np.repeat(np.arange(len(persons)), pairs)
    offset = np.arange(len(person)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    row = order[start[keyframe[person]] + offset]
    matched = np.zeros(len(persons), dtype=bool)
    # A row without a box has NaN as its IoU.
    matched[person[box_iou(persons.boxes[person], rows.boxes[row]) >= MAX_IOU]] = True

    chosen = ~matched if keyframes == "all_keyframes" else named & ~matched
    # Boxes are grouped by the exact times of the annotations.
    timestamp = np.where(named, rows.timestamp[order[start[keyframe]]], persons.timestamp)
    number = int(chosen.sum())
    return replace(
        rows,
        video=np.append(rows.video, video[chosen]),
        timestamp=np.append(rows.timestamp, timestamp[chosen]),
        boxes=np.concatenate([rows.boxes, persons.boxes[chosen]]),
        action=np.append(rows.action, np.full(number, -1, dtype=np.int32)),
        score=np.append(rows.score, persons.score[chosen]),
        person=np.append(rows.person, np.full(number, -1, dtype=np.int32)),
    )
