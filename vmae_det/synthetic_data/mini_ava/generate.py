"""Generate MiniAVA: videos and annotations in AVA's formats, from a seed.

It contains data for the toolkit's three tasks: unlabeled videos for pre-training, single-action clips for
fine-tuning, and videos with person boxes and actions at keyframes. Its README.md, next to the videos,
explains the formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vmae_det.synthetic_data.building import SyntheticDataset, VideoJob, Workers
from vmae_det.synthetic_data.mini_ava.dataset_files import (
    Truths,
    write_clip_list,
    write_common_files,
    write_detection_files,
)
from vmae_det.synthetic_data.mini_ava.plan import (
    FPS,
    HEIGHT,
    WIDTH,
    plan_clips,
    plan_unlabeled_videos,
    plan_videos,
)
from vmae_det.synthetic_data.mini_ava.render import Scene
from vmae_det.synthetic_data.video_files import write_video

VERSION = 5  # of the generator; a folder of another version is replaced
MANIFEST = "mini_ava.json"

_TRAIN, _VAL, _UNLABELLED, _CLIPS_TRAIN, _CLIPS_VAL = range(5)  # set numbers in random keys


@dataclass(frozen=True)
class MiniAvaSize:
    """Numbers of videos (ten seconds; unlabelled ones three) and clips (two seconds)."""

    train_videos: int
    val_videos: int
    unlabelled_videos: int
    clips_per_action_train: int
    clips_per_action_val: int


FULL = MiniAvaSize(
    train_videos=96, val_videos=36, unlabelled_videos=300, clips_per_action_train=60, clips_per_action_val=40
)
TINY = MiniAvaSize(
    train_videos=4, val_videos=2, unlabelled_videos=2, clips_per_action_train=1, clips_per_action_val=1
)


def _fill(folder: Path, seed: int, size: MiniAvaSize, workers: Workers) -> None:
    videos = {
        "train": plan_videos(size.train_videos, seed, _TRAIN),
        "val": plan_videos(size.val_videos, seed, _VAL),
    }
    unlabeled = plan_unlabeled_videos(size.unlabelled_videos, seed, _UNLABELLED)
    clips = {
        "train": plan_clips(size.clips_per_action_train, seed, _CLIPS_TRAIN),
        "val": plan_clips(size.clips_per_action_val, seed, _CLIPS_VAL),
    }
    jobs = [
        VideoJob(plan, folder / "videos" / f"{plan.name}.mp4") for plans in videos.values() for plan in plans
    ]
    annotated = len(jobs)
    jobs += [VideoJob(plan, folder / "unlabelled" / f"{plan.name}.mp4") for plan in unlabeled]
    jobs += [
        VideoJob(plan, folder / "clips" / split / f"{plan.name}.mp4")
        for split, plans in clips.items()
        for plan, _ in plans
    ]
    for parent in {job.path.parent for job in jobs}:
        parent.mkdir(parents=True)
    truths = dict(zip((job.plan.name for job in jobs), workers.map(_render, jobs)[:annotated]))
    for split, plans in videos.items():
        write_detection_files(folder, split, [(plan, truths[plan.name]) for plan in plans])
        write_clip_list(folder, split, clips[split])
    write_common_files(folder)


def _render(job: VideoJob) -> Truths:
    """Write one video; return its ground truth by keyframe."""
    scene = Scene(job.plan)
    write_video(job.path, scene.frames(), (WIDTH, HEIGHT), FPS)
    return {second: scene.truth(second) for second in job.plan.keyframes}


_DATASET = SyntheticDataset("MiniAVA", MANIFEST, VERSION, FULL, megabytes=50, fill=_fill)
# Generates the dataset in a folder, unless it exists.
make_mini_ava = _DATASET.build
