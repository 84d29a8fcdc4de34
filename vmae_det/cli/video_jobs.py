"""Runs a command on many videos: skips those that are done, and shares the others among the processes."""

from __future__ import annotations

import argparse
import datetime
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_det.cli.arguments import dataset_time, num_processes, number_in, video_time
from vmae_det.cli.weights_arguments import load_weights_config
from vmae_det.utils.errors import UserError

if TYPE_CHECKING:
    from torch import distributed as dist

    from vmae_det.config import CfgNode
    from vmae_det.video.discovery import VideoInput

logger = logging.getLogger(__name__)

_VIDEO_HELP = (
    "a video file, a folder of videos or of frames, a pattern such as frames/%%05d.jpg, an http(s) URL, "
    "a stream (rtsp, rtmp, udp), or a camera (its number or device)"
)
# At the end, processes wait for the one that has the longest video.
_END_TIMEOUT = datetime.timedelta(days=30)

# Processes one video, with a title for its progress bar. Returns the files that it wrote.
ProcessVideo = Callable[["VideoInput", str], Sequence[Path]]


def add_videos_argument(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument `videos`."""
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help=_VIDEO_HELP)


def add_span_arguments(parser: argparse._ActionsContainer) -> None:
    """Add `--start` and `--end`."""
    parser.add_argument(
        "--start", type=video_time, default=0.0, metavar="SECOND", help="start at this second of the video"
    )
    parser.add_argument(
        "--end",
        type=number_in("(0, inf]"),
        default=math.inf,
        metavar="SECOND",
        help="stop at this second of the video",
    )


def check_span(args: argparse.Namespace) -> None:
    """Raise UserError if `--end` is not after `--start`."""
    if args.end <= args.start:
        raise UserError(f"--end: must be greater than --start {args.start:g}, got {args.end:g}")


def add_video_start_argument(parser: argparse._ActionsContainer) -> None:
    """Add `--video-start`."""
    parser.add_argument(
        "--video-start",
        type=dataset_time,
        default=0.0,
        metavar="SECOND",
        help="time on the clock of the boxes at which the video file starts (default: %(default)s)",
    )


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--overwrite` and `--num-gpus`."""
    parser.add_argument("--overwrite", action="store_true", help="reprocess videos that are already done")
    parser.add_argument(
        "--num-gpus",
        type=num_processes,
        default=1,
        metavar="N",
        help="number of processes that share the videos, one per GPU or all on the CPU (default: 1)",
    )


def launch_jobs(
    main: Callable[..., None],
    args: argparse.Namespace,
    inputs: Sequence[VideoInput],
    *more: Any,
    cfg: CfgNode | None = None,
) -> int:
    """Run `main(args, inputs, *more)` in `--num-gpus` processes, at most one per video.

    Args:
        main: calls `process_videos`.
        cfg: the config of the weights (default: read it if it is needed).

    Returns:
        The exit status.

    Raises:
        ConfigError: this machine has too few GPUs or cores (see `engine.launch.check_processes`).
    """
    from vmae_det.engine.launch import check_processes, launch

    if args.num_gpus > 1:
        check_processes(args.num_gpus, (cfg or load_weights_config(args)).MODEL.DEVICE)
    return launch(main, (args, inputs, *more), num_processes=min(args.num_gpus, len(inputs)))


def process_videos(
    inputs: Sequence[VideoInput],
    output: Path | None,
    is_done: Callable[[VideoInput], bool],
    prepare: Callable[[], ProcessVideo],
    *,
    overwrite: bool = False,
) -> None:
    """Process this rank's share of the videos. All processes must call this.

    Args:
        output: folder of the results, for the message about skipped videos.
        is_done: whether the results of a video exist. Such videos are skipped, unless they are live streams.
        prepare: loads the model; only called if this rank has videos.
        overwrite: do not skip any video.

    Raises:
        UserError: videos could not be read. With several videos it is raised at the end, in all processes.
    """
    from tqdm import tqdm

    from vmae_det.utils import distributed
    from vmae_det.utils.logging import setup_logging

    setup_logging()
    group = _end_group()
    # The first process decides, since the others may look when it has already finished a video.
    pending = _pending_videos(inputs, output, is_done, overwrite) if distributed.is_main_process() else []
    pending = _broadcast(pending, group)
    share = pending[distributed.get_rank() :: distributed.get_world_size()]
    failures: list[str] = []
    if share:
        process = prepare()
        for number, video in enumerate(share, start=1):
            name = video.stem.name
            try:
                paths = process(video, name if len(share) == 1 else f"{number}/{len(share)} {name}")
            except UserError as error:
                if len(pending) == 1:
                    raise
                logger.error("%s", " ".join(str(error).split()))
                failures.append(video.video)
            else:
                if paths:
                    tqdm.write("\n".join(map(str, paths)))
    _report_failures(failures, len(pending), group)


def _pending_videos(
    inputs: Sequence[VideoInput], output: Path | None, is_done: Callable[[VideoInput], bool], overwrite: bool
) -> list[VideoInput]:
    """Return the videos that are not done. Live streams are always pending."""
    pending = [video for video in inputs if overwrite or video.is_live or not is_done(video)]
    if len(pending) < len(inputs):
        logger.info(
            "Skipping %d of %d videos already done in %s; use --overwrite to process them again",
            len(inputs) - len(pending),
            len(inputs),
            output,
        )
    return pending


def _end_group() -> dist.ProcessGroup | None:
    """Return a process group with a long timeout; None in a single process."""
    from torch import distributed as dist

    from vmae_det.utils import distributed

    if distributed.get_world_size() == 1:
        return None
    return dist.new_group(backend="gloo", timeout=_END_TIMEOUT)


def _broadcast(videos: list[VideoInput], group: dist.ProcessGroup | None) -> list[VideoInput]:
    """Return the videos of the first process."""
    if group is None:
        return videos
    from torch import distributed as dist

    content = [videos]
    dist.broadcast_object_list(content, src=0, group=group)
    return content[0]


def _report_failures(failures: list[str], total: int, group: dist.ProcessGroup | None) -> None:
    """Wait for all processes; raise UserError if any of them failed to read a video."""
    if group is not None:
        from torch import distributed as dist

        lists: list[list[str]] = [[]] * dist.get_world_size()
        dist.all_gather_object(lists, failures, group=group)
        failures = [name for names in lists for name in names]
    if failures:
        some = ", ".join(failures[:5]) + (", ..." if len(failures) > 5 else "")
        raise UserError(f"{len(failures)} of {total} videos failed: {some}")
