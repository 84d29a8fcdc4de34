"""Write MiniAVA's annotations in the formats of AVA and Kinetics, its person boxes and its README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vmae_det.mini_ava.plan import ACTIONS, VIDEO_START, VideoPlan
from vmae_det.mini_ava.render import PersonTruth

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

A small, made-up data set in the formats of AVA, for learning the formats and for trying whole pipelines in
minutes. Every video is drawn by a program: people of varied build and clothes who stand, walk, run, crouch,
jump, fall, wave, clap, carry a box, shake hands and push each other, before a slowly moving background.
Most actions cannot be told from one frame. The files are H.264, 192 x 144 pixels, 12 frames a second. Paths
below start in this folder.

## Actions at keyframes (as AVA)

`videos/ID.mp4` stands for ten seconds, 900 to 910, of a longer recording; 900 is `video_start` in
`train.yaml` and `val.yaml`. Once a second, at 902, 903, ... 908, is a keyframe, at which every person has a
box and one or more actions.

`annotations/mini_ava_train.csv`, `mini_ava_val.csv`: one line for each box and action, without a header.

    {example_annotation}
    video id, second, x1, y1, x2, y2, action id, person id

Boxes are in parts of the frame's width and height: (0, 0) is the top left corner, (1, 1) the bottom right
one. A box holds what can be seen of the person. A person with two actions has two lines with the same box.
The person id follows one person through one video.

`annotations/mini_ava_actions.pbtxt`: the label map, names and ids of the actions. Ids begin at 1 and leave
gaps. A `PERSON_MOVEMENT` is a pose, of which everybody has exactly one; an `OBJECT_MANIPULATION` is done
with the hands meanwhile; a `PERSON_INTERACTION` is done by two people, and both are labelled.

`annotations/mini_ava_train_excluded_timestamps.csv`, `mini_ava_val_excluded_timestamps.csv`: keyframes at
which somebody is mostly hidden or outside of the frame. They have no annotations and count in no
evaluation.

`person_boxes/mini_ava_train.csv`, `mini_ava_val.csv`: people as a detector would find them, in the format of
SlowFast. Boxes are a little off, some people are missed, some boxes hold nobody.

    {example_box}
    video id, second, x1, y1, x2, y2, nothing, score

## One action a video (as Kinetics)

`annotations/clips_train.csv`, `clips_val.csv`: the path of a two-second clip, a space, and the action's
place in the label map, counted from 0. Clips with the same number in their names show the same person in
the same room, so that looks say nothing of the action.

    {example_clip}

## No labels

`unlabelled/` holds shorter videos like those in `videos/`, for pre-training.

## Data set files

`train.yaml`, `val.yaml`, `clips_train.yaml`, `clips_val.yaml` and `unlabelled.yaml` each tell the toolkit
one data set. A data set of your own needs such a file and no code. `mini_ava.json` says which generator,
seed and counts made this folder.
"""


def write_text(path: Path, text: str) -> None:
    """Write a text file with the same bytes on every platform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


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
    _write_lines(root / f"annotations/mini_ava_{split}.csv", annotations)
    _write_lines(root / f"annotations/mini_ava_{split}_excluded_timestamps.csv", excluded)
    _write_lines(root / f"person_boxes/mini_ava_{split}.csv", boxes)


def write_clip_list(root: Path, split: str, clips: Iterable[tuple[VideoPlan, int]]) -> None:
    """Write the Kinetics-style list of the clips of `split`; labels are indices into the label map."""
    lines = [f"clips/{split}/{plan.name}.mp4 {column}" for plan, column in clips]
    _write_lines(root / f"annotations/clips_{split}.csv", lines)


def write_common_files(root: Path) -> None:
    """Write label map, dataset files and README. The other annotations must exist."""
    entries = (
        f'label {{\n  name: "{action.name}"\n  label_id: {action.id}\n  label_type: {action.kind}\n}}\n'
        for action in ACTIONS
    )
    write_text(root / "annotations/mini_ava_actions.pbtxt", "".join(entries))
    for split, title in (("train", "training"), ("val", "validation")):
        detection = f"MiniAVA: spatio-temporal action detection, {title} set."
        write_text(
            root / f"{split}.yaml", _DETECTION_YAML.format(title=detection, split=split, start=VIDEO_START)
        )
        clips = f"MiniAVA: clips of a single action, {title} set."
        write_text(root / f"clips_{split}.yaml", _CLIPS_YAML.format(title=clips, split=split))
    write_text(root / "unlabelled.yaml", _UNLABELLED_YAML)
    readme = _README.format(
        example_annotation=_first_line(root / "annotations/mini_ava_train.csv"),
        example_box=_first_line(root / "person_boxes/mini_ava_train.csv"),
        example_clip=_first_line(root / "annotations/clips_train.csv"),
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


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8") as lines:
        return lines.readline().rstrip("\n")
