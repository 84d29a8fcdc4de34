"""Generate MiniScenes: videos of people at twelve kinds of places, from a seed.

Its README.md, next to the videos, explains the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vmae_det.synthetic_data.building import SyntheticDataset, VideoJob, Workers
from vmae_det.synthetic_data.classification_files import write_classes, write_readme, write_split
from vmae_det.synthetic_data.mini_scenes.painter import HEIGHT, WIDTH
from vmae_det.synthetic_data.mini_scenes.plan import CLASSES, FPS, plan_videos
from vmae_det.synthetic_data.mini_scenes.render import Scene
from vmae_det.synthetic_data.video_files import write_video

VERSION = 1  # of the generator; a folder of another version is replaced
MANIFEST = "mini_scenes.json"

_TRAIN, _VAL = range(2)  # set numbers in random keys

_README = """\
# MiniScenes

A small synthetic dataset for action classification, after Kinetics. It trains in minutes. The place and its
objects mostly give the class away, and what the people do helps. Colors say little: every video has its own
tone and light. Each video has its own place with moving things, zero to six people who differ in build,
clothes and behavior, and a moving camera. Use it to pre-train or fine-tune before a transfer to MiniMotion or
MiniAVA.

Videos are H.264, {width} x {height} pixels, {fps} frames per second, two seconds long. Paths below are
relative to this folder.

## Classification (Kinetics' format)

`annotations/train.csv`, `annotations/val.csv`: one row per video, with its path and the index of its class in
the label map, from 0 on.

    {example}

`annotations/classes.pbtxt`: the label map. Ids start at 1:

{classes}

## Dataset files

`train.yaml` and `val.yaml` each describe one dataset to the toolkit. `mini_scenes.json` states the version,
the seed and the numbers of videos of this folder.
"""


@dataclass(frozen=True)
class MiniScenesSize:
    """Numbers of videos."""

    train_per_class: int
    val_per_class: int


FULL = MiniScenesSize(train_per_class=80, val_per_class=20)
TINY = MiniScenesSize(train_per_class=1, val_per_class=1)


def _fill(folder: Path, seed: int, size: MiniScenesSize, workers: Workers) -> None:
    jobs = []
    for split, title, per_class, number in (
        ("train", "training", size.train_per_class, _TRAIN),
        ("val", "validation", size.val_per_class, _VAL),
    ):
        plans = plan_videos(per_class, seed, number)
        videos = [(f"videos/{split}/{plan.name}.mp4", label) for plan, label in plans]
        jobs += [VideoJob(plan, folder / path) for (plan, _), (path, _) in zip(plans, videos)]
        write_split(folder, split, f"MiniScenes: actions at places, {title} set.", videos)
        (folder / "videos" / split).mkdir(parents=True)
    workers.map(_render, jobs, jobs_at_once=4)
    write_classes(folder, CLASSES)
    write_readme(folder, _README, CLASSES, (WIDTH, HEIGHT), FPS)


def _render(job: VideoJob) -> None:
    write_video(job.path, Scene(job.plan).frames(), (WIDTH, HEIGHT), FPS)


_DATASET = SyntheticDataset("MiniScenes", MANIFEST, VERSION, FULL, megabytes=60, fill=_fill)
# Generates the dataset in a folder, unless it exists.
make_mini_scenes = _DATASET.build
