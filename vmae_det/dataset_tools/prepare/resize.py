"""Re-encode many videos in parallel: smaller, and fast to decode, as training needs them."""

from __future__ import annotations

import argparse
import functools
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from vmae_det.dataset_tools.prepare.preparers import Outcome
from vmae_det.dataset_tools.prepare.transcode import DEFAULT_GOP, resize_video
from vmae_det.dataset_tools.prepare.video_jobs import Journal, run_video_jobs
from vmae_det.utils.errors import DataError, UserError
from vmae_det.video.discovery import find_videos

RESIZE_TIMEOUT = 1800  # seconds to re-encode one video


def resize_videos(
    names: list[str],
    source: Path,
    target: Path,
    journal: Journal,
    short_side: int,
    gop: int = DEFAULT_GOP,
    workers: int | None = None,
) -> dict[str, str]:
    """Re-encode `source/NAME` to `target/resized_name(NAME)`. Resumes an interrupted run.

    Args:
        journal: results of earlier runs with the same settings.
        short_side, gop: see `resize_video`.
        workers: number of processes. None: one for each CPU, at most 16.

    Returns:
        File name to problem, '' for none.
    """
    target.mkdir(parents=True, exist_ok=True)
    for unfinished in target.rglob(".*.tmp.mp4"):
        unfinished.unlink()
    return run_video_jobs(
        journal,
        names,
        functools.partial(_resize_one, source=source, target=target, short_side=short_side, gop=gop),
        "re-encoding",
        workers=workers,
        timeout=RESIZE_TIMEOUT,
        is_done=lambda name: (target / resized_name(name)).is_file(),
    )


def resize_folder(videos: Path, output: Path, short_side: int, gop: int, workers: int | None) -> Outcome:
    """Re-encode all videos below a folder to the same paths below another one, as .mp4.

    Raises:
        DataError: there are no videos, or two of them would be written to one file.
        UserError: the folder of outputs is or contains the folder of videos, or has videos of other settings.
    """
    if videos.resolve().is_relative_to(output.resolve()):  # a source could be overwritten
        verb = "is" if videos.resolve() == output.resolve() else "contains"
        raise UserError(f"--output: {output} {verb} the folder of videos {videos}; pass another folder")
    names = [path.relative_to(videos).as_posix() for path in find_videos(videos)]
    if output.resolve().is_relative_to(videos.resolve()):
        inside = output.resolve().relative_to(videos.resolve()).as_posix() + "/"
        names = [name for name in names if not name.startswith(inside)]
    twice = [name for name, count in Counter(map(resized_name, names)).items() if count > 1]
    if twice:
        first, second = [name for name in names if resized_name(name) == twice[0]][:2]
        raise DataError(f"{first} and {second} would both be written to {twice[0]}; rename one", videos)
    journal = output / f".journal_resize_{short_side}_gop_{gop}.jsonl"
    other = next((path for path in output.glob(".journal_resize_*.jsonl") if path != journal), None)
    if other is not None:
        side, other_gop = re.findall("[0-9]+", other.name)
        raise UserError(
            f"{output}: has videos of --short-side {side} --gop {other_gop}; pass these options to resume, "
            "or another --output"
        )
    problems = resize_videos(names, videos, output, Journal(journal, videos), short_side, gop, workers)
    broken = {name: problem for name, problem in problems.items() if problem}
    return Outcome([f"videos: {output}"], expected=len(names), broken=broken)


def resized_name(name: str) -> str:
    """Return the path of the re-encoded video of `name`."""
    return str(PurePosixPath(name).with_suffix(".mp4"))


def parse_short_side(text: str) -> int:
    """Parse a short side in pixels, for argparse."""
    if not re.fullmatch("[0-9]{1,4}", text) or not 16 <= int(text) <= 4320:
        raise argparse.ArgumentTypeError(f"expected 16 to 4320 pixels, got '{text[:50]}'")
    return int(text)


def add_gop_argument(parser: argparse.ArgumentParser) -> None:
    """Add --gop."""
    parser.add_argument(
        "--gop",
        type=_gop,
        default=DEFAULT_GOP,
        metavar="FRAMES",
        help="frames from one key frame of the re-encoded videos to the next. 1: every frame is a key frame, "
        "the fastest to decode and the largest on disk (default: %(default)s)",
    )


def _gop(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"expected 1 to 1000 frames, got '{text[:50]}'")
    return int(text)


def _resize_one(name: str, source: Path, target: Path, short_side: int, gop: int) -> str | UserError:
    return resize_video(source / name, target / resized_name(name), short_side, gop)
