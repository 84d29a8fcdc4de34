"""Generate MiniAVA: videos and annotations in AVA's formats, from a seed.

It contains data for the toolkit's three tasks: unlabeled videos for pre-training, single-action clips for
fine-tuning, and videos with person boxes and actions at keyframes. Its README.md, next to the videos,
explains the formats.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from filelock import FileLock
from tqdm import tqdm

from vmae_det.mini_ava.dataset_files import (
    Truths,
    write_clip_list,
    write_common_files,
    write_detection_files,
    write_text,
)
from vmae_det.mini_ava.plan import (
    FPS,
    HEIGHT,
    WIDTH,
    VideoPlan,
    plan_clips,
    plan_unlabeled_videos,
    plan_videos,
)
from vmae_det.mini_ava.render import Scene
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import DataError, UserError

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
    train_videos=96, val_videos=36, unlabelled_videos=300, clips_per_action_train=60, clips_per_action_val=8
)
TINY = MiniAvaSize(
    train_videos=4, val_videos=2, unlabelled_videos=2, clips_per_action_train=1, clips_per_action_val=1
)


@dataclass(frozen=True)
class _Job:
    plan: VideoPlan
    path: Path


def make_mini_ava(
    root: Path,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    size: MiniAvaSize = FULL,
) -> Path:
    """Generate the dataset in the folder `root`, unless it exists, and return `root`.

    The same seed and size give the same bytes, whatever the number of workers. Several processes can call
    this at the same time: one generates, the others wait. The folder is written atomically. A folder of
    another seed, size or version is replaced.

    Args:
        workers: number of processes. None: one for each CPU.
        progress: whether to show a progress bar.

    Raises:
        UserError: `seed` or `workers` is out of range.
        DataError: `root` cannot be written, or contains something that is not MiniAVA.
    """
    if seed < 0:
        raise UserError(f"seed: expected a non-negative integer, got {seed}")
    if workers is not None and workers < 1:
        raise UserError(f"workers: expected a positive integer, or None for one per CPU, got {workers}")
    folder = Path(root).resolve()
    manifest = {"generator": "MiniAVA", "version": VERSION, "seed": seed, "size": asdict(size)}
    if _manifest_of(folder) == manifest:
        return root
    _refuse_import_of_main()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if _manifest_of(folder) != manifest:
                _build(folder, manifest, seed, size, workers or count_cores(), progress)
    except OSError as error:
        raise DataError(
            f"MiniAVA cannot be written here ({error.strerror or error}); choose a writable folder on a disk "
            "with 50 MB of free space",
            root,
        ) from error
    return root


def _manifest_of(folder: Path) -> dict | None:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _refuse_import_of_main() -> None:
    """Refuse an unguarded main script, which a spawned worker imports and which would wait for its parent."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "guard the main script with `if __name__ == '__main__':` to build MiniAVA in parallel"
        )


def _build(folder: Path, manifest: dict, seed: int, size: MiniAvaSize, workers: int, progress: bool) -> None:
    if (
        folder.exists()
        and not (folder / MANIFEST).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise DataError(
            f"expected MiniAVA, got a file or folder without {MANIFEST}; choose another folder, or move this "
            "one",
            folder,
        )
    # Only the process with the lock uses these two, so leftovers of an interrupted run can be removed.
    partial, replaced = (folder.with_name(f".{folder.name}.{part}") for part in ("partial", "replaced"))
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _fill(partial, seed, size, workers, progress)
        write_text(partial / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _fill(folder: Path, seed: int, size: MiniAvaSize, workers: int, progress: bool) -> None:
    videos = {
        "train": plan_videos(size.train_videos, seed, _TRAIN),
        "val": plan_videos(size.val_videos, seed, _VAL),
    }
    unlabeled = plan_unlabeled_videos(size.unlabelled_videos, seed, _UNLABELLED)
    clips = {
        "train": plan_clips(size.clips_per_action_train, seed, _CLIPS_TRAIN),
        "val": plan_clips(size.clips_per_action_val, seed, _CLIPS_VAL),
    }
    jobs = [_Job(plan, folder / "videos" / f"{plan.name}.mp4") for plans in videos.values() for plan in plans]
    annotated = len(jobs)
    jobs += [_Job(plan, folder / "unlabelled" / f"{plan.name}.mp4") for plan in unlabeled]
    jobs += [
        _Job(plan, folder / "clips" / split / f"{plan.name}.mp4")
        for split, plans in clips.items()
        for plan, _ in plans
    ]
    for parent in {job.path.parent for job in jobs}:
        parent.mkdir(parents=True)
    truths = dict(zip((job.plan.name for job in jobs), _render_all(jobs, workers, progress)[:annotated]))
    for split, plans in videos.items():
        write_detection_files(folder, split, [(plan, truths[plan.name]) for plan in plans])
        write_clip_list(folder, split, clips[split])
    write_common_files(folder)


def _render_all(jobs: list[_Job], workers: int, progress: bool) -> list[Truths]:
    """Render all jobs, in parallel processes if possible."""
    truths: list[Truths] = []
    with tqdm(
        total=len(jobs), desc="generating MiniAVA", unit="video", disable=None if progress else True
    ) as bar:
        # Daemonic processes, such as data loader workers, cannot have children.
        if workers > 1 and not multiprocessing.current_process().daemon:
            context = multiprocessing.get_context("spawn")
            try:
                with ProcessPoolExecutor(
                    workers, context, initializer=cv2.setNumThreads, initargs=(1,)
                ) as pool:
                    for truth in pool.map(_render, jobs, chunksize=2):
                        truths.append(truth)
                        bar.update()
            except BrokenProcessPool:
                bar.set_postfix_str("worker processes failed; rendering in this process")
        for job in jobs[len(truths) :]:
            truths.append(_render(job))
            bar.update()
    return truths


def _render(job: _Job) -> Truths:
    """Write one video; return its ground truth by keyframe."""
    scene = Scene(job.plan)
    _write_video(job.path, scene.frames())
    return {second: scene.truth(second) for second in job.plan.keyframes}


def _write_video(path: Path, frames: Iterable[np.ndarray]) -> None:
    # One thread and no look-ahead: otherwise x264's output differs from run to run.
    options = {"preset": "veryfast", "crf": "20", "x264-params": "threads=1:rc-lookahead=0:mbtree=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = FPS
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
