"""Generate MiniMotion: videos of a hand that does something with objects, from a seed.

Its README.md, next to the videos, explains the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vmae_det.synthetic_data.building import SyntheticDataset, VideoJob, Workers
from vmae_det.synthetic_data.classification_files import (
    write_classes,
    write_readme,
    write_split,
    write_unlabelled,
)
from vmae_det.synthetic_data.mini_motion.plan import (
    CLASSES,
    FPS,
    HEIGHT,
    WIDTH,
    plan_unlabelled_videos,
    plan_videos,
)
from vmae_det.synthetic_data.mini_motion.render import frames
from vmae_det.synthetic_data.video_files import write_video

VERSION = 2  # of the generator; a folder of another version is replaced
MANIFEST = "mini_motion.json"

_TRAIN, _VAL, _UNLABELLED = range(3)  # set numbers in random keys

_README = """\
# MiniMotion

A small synthetic dataset for action classification by motion, after Something-Something V2. It trains in
minutes. In each video, a hand does something with an object on a table. One frame rarely gives the class
away: the classes form pairs that differ by the order of the frames, or by a detail of the motion. Rooms,
objects, hands, positions, speeds and camera movements are independent of the class, because videos with the
same number show the same scene in every class.

Videos are H.264, {width} x {height} pixels, {fps} frames per second, two seconds long. Paths below are
relative to this folder.

## Classification (Kinetics' format)

`annotations/train.csv`, `annotations/val.csv`: one row per video, with its path and the index of its class in
the label map, from 0 on.

    {example}

`annotations/classes.pbtxt`: the label map. Ids start at 1:

{classes}

Do not flip videos in training: two classes differ by left and right.

## Pre-training

`videos/unlabelled/` contains more videos of the same kind, each with its own scene, without labels.

## Dataset files

`train.yaml`, `val.yaml` and `unlabelled.yaml` each describe one dataset to the toolkit. `mini_motion.json`
states the version, the seed and the numbers of videos of this folder.
"""


@dataclass(frozen=True)
class MiniMotionSize:
    """Numbers of videos."""

    train_per_class: int
    val_per_class: int
    unlabelled: int


FULL = MiniMotionSize(train_per_class=60, val_per_class=24, unlabelled=400)
TINY = MiniMotionSize(train_per_class=1, val_per_class=1, unlabelled=2)


def _fill(folder: Path, seed: int, size: MiniMotionSize, workers: Workers) -> None:
    splits = {
        "train": plan_videos(size.train_per_class, seed, _TRAIN),
        "val": plan_videos(size.val_per_class, seed, _VAL),
    }
    jobs = []
    for split, plans in splits.items():
        paths = [f"videos/{split}/{plan.name}.mp4" for plan, _ in plans]
        jobs += [VideoJob(plan, folder / path) for (plan, _), path in zip(plans, paths)]
        by_class = sorted(zip((label for _, label in plans), paths))
        title = (
            f"MiniMotion: classification by motion, {'training' if split == 'train' else 'validation'} set."
        )
        write_split(folder, split, title, [(path, label) for label, path in by_class])
    unlabelled = plan_unlabelled_videos(size.unlabelled, seed, _UNLABELLED)
    jobs += [VideoJob(plan, folder / f"videos/unlabelled/{plan.name}.mp4") for plan in unlabelled]
    write_unlabelled(
        folder, "unlabelled", "MiniMotion: videos without labels, for pre-training.", "videos/unlabelled"
    )
    for name in (*splits, "unlabelled"):
        (folder / "videos" / name).mkdir(parents=True)
    workers.map(_render, jobs, jobs_at_once=len(CLASSES))
    write_classes(folder, CLASSES)
    write_readme(folder, _README, CLASSES, (WIDTH, HEIGHT), FPS)


def _render(job: VideoJob) -> None:
    write_video(job.path, frames(job.plan), (WIDTH, HEIGHT), FPS)


_DATASET = SyntheticDataset("MiniMotion", MANIFEST, VERSION, FULL, megabytes=60, fill=_fill)
# Generates the dataset in a folder, unless it exists.
make_mini_motion = _DATASET.build
