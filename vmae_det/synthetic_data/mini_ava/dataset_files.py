"""Write MiniAVA's annotations in the formats of AVA and Kinetics, its person boxes and its README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.synthetic_data.mini_ava.plan import ACTIONS, VIDEO_START, VideoPlan
from vmae_det.synthetic_data.mini_ava.render import PersonTruth
from vmae_det.synthetic_data.text_files import first_line, write_lines, write_text

# A keyframe is excluded if a smaller fraction than this of any person is visible.
MIN_VISIBLE = 0.4

_BOX_JITTER = 0.04  # standard deviation of a detected box's edges, relative to the box size
_MISS_RATE = 0.06
_FALSE_POSITIVES = 0.15  # per keyframe
_ACTION_IDS = {action.name: action.id for action in ACTIONS}

Truths = Mapping[int, Sequence[PersonTruth]]  # by keyframe, seconds from the start of the file

_DETECTION_YAML = """\
# {title}
type: detection  # people in boxes with actions, at keyframes
# Folder of the video files, named after the video ids.
videos: videos
# video_id,second,x1,y1,x2,y2,action_id,person_id
annotations: annotations/mini_ava_{split}.csv
# Names and ids of the actions.
label_map: annotations/mini_ava_actions.pbtxt
# What a person detector found: video_id,second,x1,y1,x2,y2,,score
person_boxes: person_boxes/mini_ava_{split}.csv
# Keyframes that are not to be judged: video_id,second
excluded: annotations/mini_ava_{split}_excluded_timestamps.csv
# The second of the annotations' clock at which every video file begins.
video_start: {start}
"""
_CLIPS_YAML = """\
# {title}
type: classification  # one action a video
# Folder that the paths in the list start from.
videos: .
# Lines of "path label"; the label counts the label map's entries from 0.
annotations: annotations/clips_{split}.csv
# Names and ids of the actions.
label_map: annotations/mini_ava_actions.pbtxt
"""
_UNLABELLED_YAML = """\
# MiniAVA: videos without labels, for pre-training.
type: videos  # nothing but videos
# Folder of the video files.
videos: unlabelled
"""

_README = """\
# MiniAVA

A small synthetic dataset in the formats of AVA and Kinetics. It trains in minutes, so it is for learning the
formats and for testing a full pipeline. The videos show drawn figures in front of a slowly moving background.
The people differ in build and clothes. They stand, walk, run, crouch, jump, fall, wave, clap, carry a box,
shake hands and push each other. Most actions cannot be recognized in a single frame.

Videos are H.264, 192 x 144 pixels, 12 frames per second. Paths below are relative to this folder.

## Detection (AVA's format)

`videos/ID.mp4` contains seconds 900 to 910 of a longer recording. `video_start` in `train.yaml` and
`val.yaml` is therefore 900. Keyframes are one second apart: 902, 903, ..., 908. At a keyframe, every person
has a box and one or more actions.

`annotations/mini_ava_train.csv`, `mini_ava_val.csv`: one row per box and action, without a header.

    {example_annotation}
    video id, second, x1, y1, x2, y2, action id, person id

Box coordinates are relative to the width and height of the frame: (0, 0) is the top left corner, (1, 1) the
bottom right corner. A box encloses the visible part of the person. A person with two actions has two rows
with the same box. The person id identifies a person within a video.

`annotations/mini_ava_actions.pbtxt`: the label map, with names and ids of the actions. Ids start at 1 and
have gaps, as in AVA. Each person has exactly one `PERSON_MOVEMENT`, the pose. An `OBJECT_MANIPULATION` is an
action of the hands. A `PERSON_INTERACTION` has two people, and both are labeled.

`annotations/mini_ava_train_excluded_timestamps.csv`, `mini_ava_val_excluded_timestamps.csv`: keyframes with a
person who is mostly occluded or outside the frame. They have no annotations, and the evaluation ignores them.

`person_boxes/mini_ava_train.csv`, `mini_ava_val.csv`: simulated detections of people, in SlowFast's format.
They include inexact boxes, missed people and false positives.

    {example_box}
    video id, second, x1, y1, x2, y2, empty, score

## Classification (Kinetics' format)

`annotations/clips_train.csv`, `clips_val.csv`: one row per two-second clip, with its path and the index of
its action in the label map, from 0 on. Clips with the same number show the same person in the same room, so
appearance does not predict the action.

    {example_clip}

## Pre-training

`unlabelled/` contains 3-second videos like those in `videos/`, without annotations.

## Dataset files

`train.yaml`, `val.yaml`, `clips_train.yaml`, `clips_val.yaml` and `unlabelled.yaml` each describe one dataset
to the toolkit. To use your own data, write such a file. No code is necessary. `mini_ava.json` states the
version, the seed and the numbers of videos of this folder.
"""


def write_detection_files(root: Path, split: str, truths: Sequence[tuple[VideoPlan, Truths]]) -> None:
    """Write AVA annotations, excluded keyframes and person boxes of the `split` train or val."""
    annotations, excluded, boxes = [], [], []
    for plan, by_keyframe in truths:
        detector = np.random.default_rng([*plan.random_key, 1])
        for second, people in by_keyframe.items():
            keyframe = f"{plan.name},{VIDEO_START + second:04d}"
            detections = _detect([person.box for person in people], detector)
            boxes += [f"{keyframe},{_coordinates(box)},,{score:.6f}" for box, score in detections]
            if any(person.visible < MIN_VISIBLE for person in people):
                excluded.append(keyframe)
                continue
            annotations += [
                f"{keyframe},{_coordinates(person.box)},{_ACTION_IDS[action]},{person.person}"
                for person in people
                for action in person.actions
            ]
    write_lines(root / f"annotations/mini_ava_{split}.csv", annotations)
    write_lines(root / f"annotations/mini_ava_{split}_excluded_timestamps.csv", excluded)
    write_lines(root / f"person_boxes/mini_ava_{split}.csv", boxes)


def write_clip_list(root: Path, split: str, clips: Iterable[tuple[VideoPlan, int]]) -> None:
    """Write the Kinetics-style list of the clips of `split`; labels are indices into the label map."""
    lines = [f"clips/{split}/{plan.name}.mp4 {column}" for plan, column in clips]
    write_lines(root / f"annotations/clips_{split}.csv", lines)


def write_common_files(root: Path) -> None:
    """Write label map, dataset files and README. The other annotations must exist."""
    ids, names, kinds = zip(*((action.id, action.name, action.kind) for action in ACTIONS))
    write_label_map(root / "annotations/mini_ava_actions.pbtxt", LabelMap(ids, names, kinds))
    for split, title in (("train", "training"), ("val", "validation")):
        detection = f"MiniAVA: spatio-temporal action detection, {title} set."
        write_text(
            root / f"{split}.yaml", _DETECTION_YAML.format(title=detection, split=split, start=VIDEO_START)
        )
        clips = f"MiniAVA: clips of a single action, {title} set."
        write_text(root / f"clips_{split}.yaml", _CLIPS_YAML.format(title=clips, split=split))
    write_text(root / "unlabelled.yaml", _UNLABELLED_YAML)
    readme = _README.format(
        example_annotation=first_line(root / "annotations/mini_ava_train.csv"),
        example_box=first_line(root / "person_boxes/mini_ava_train.csv"),
        example_clip=first_line(root / "annotations/clips_train.csv"),
    )
    write_text(root / "README.md", readme)


def _detect(
    people: Sequence[tuple[float, ...]], rng: np.random.Generator
) -> list[tuple[tuple[float, ...], float]]:
    """Simulate a person detector: return jittered boxes and scores, with misses and false positives."""
    found = []
    for x1, y1, x2, y2 in people:
        size = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
        box = np.array([x1, y1, x2, y2]) + rng.normal(0, _BOX_JITTER, size=4) * size
        score = rng.uniform(0.8, 0.99) if rng.random() < 0.92 else rng.uniform(0.4, 0.8)
        if rng.random() >= _MISS_RATE:
            found.append((box, score))
    for _ in range(rng.poisson(_FALSE_POSITIVES)):
        width, height = rng.uniform(0.08, 0.25), rng.uniform(0.2, 0.6)
        x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        found.append((np.array([x, y, x + width, y + height]), rng.uniform(0.1, 0.85)))
    return [(tuple(np.clip(box, 0, 1)), score) for box, score in found]


def _coordinates(box: Sequence[float]) -> str:
    return ",".join(f"{coordinate:.3f}" for coordinate in box)
