"""The work of `vmae-det detect`: video after video, each to its files."""

from __future__ import annotations

import argparse
import datetime
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from torch import distributed as dist
from tqdm import tqdm

from vmae_det.cli.common import load_config
from vmae_det.config import CfgNode, check_config
from vmae_det.data.label_map import LabelMap
from vmae_det.data.person_boxes import PersonBoxes, read_person_boxes
from vmae_det.inference.inputs import VideoInput
from vmae_det.inference.person_sources import PersonSource, WholeFrame
from vmae_det.inference.predictor import ActionPredictor, read_config
from vmae_det.inference.stopwatch import Stopwatch
from vmae_det.inference.stream import ActionStream, StreamOptions
from vmae_det.inference.video_sources import open_source
from vmae_det.utils import distributed
from vmae_det.utils.errors import UserError
from vmae_det.utils.logging import setup_logging
from vmae_det.visualization.overlay_writer import OverlayStyle, OverlayWriter
from vmae_det.visualization.result_writers import WRITERS, Output, ResultWriter, output_paths

logger = logging.getLogger(__name__)

# Processes wait for one another at the end, for as long as the longest video takes.
_PATIENCE = datetime.timedelta(days=30)
_OPEN_BAR = "{desc}: {n:.0f} s of video [{elapsed}{postfix}]"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of video [{elapsed}<{remaining}{postfix}]"


@dataclass(frozen=True)
class Settings:
    """What is made of each video.

    Attributes:
        formats: names of WRITERS.
        every: seconds between keyframes, where the persons dictate none.
        video_start: second of the boxes' clock at which the video starts.
        start, end: seconds of the video that are looked at.
        overlap: decode, score and draw side by side.
    """

    formats: Sequence[str] = tuple(WRITERS)
    every: float = 1.0
    video_start: float = 0.0
    start: float = 0.0
    end: float = float("inf")
    style: OverlayStyle = field(default_factory=OverlayStyle)
    overlap: bool = True
    stopwatch: Stopwatch = field(default_factory=Stopwatch)


def detect_videos(args: argparse.Namespace, inputs: list[VideoInput], formats: list[str]) -> None:
    """Detect in this process's share of the videos.

    Raises:
        UserError: at the end, if there were videos that could not be read, in all processes alike.
    """
    setup_logging()
    group = _patient_group()
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    todo = _left_to_do(inputs, args.output, formats, args.overwrite)
    failures: list[str] = []
    if own := todo[rank::processes]:
        predictor = ActionPredictor(_config(args), _label_map(args), args.actions)
        persons = WholeFrame() if args.whole_frame else read_person_boxes(args.boxes)
        style = OverlayStyle(args.top_k, args.threshold)
        settings = Settings(formats, args.every, args.video_start, args.start, args.end, style)
        for number, found in enumerate(own, start=1):
            title = found.stem.name if len(own) == 1 else f"{number}/{len(own)} {found.stem.name}"
            try:
                paths = detect_video(
                    predictor, found.video, persons, args.output / found.stem, settings, title
                )
            except UserError as error:
                if len(todo) == 1:
                    raise
                logger.error("%s", " ".join(str(error).split()))
                failures.append(found.video)
            else:
                tqdm.write("\n".join(map(str, paths)))
    _finish(failures, len(todo), group)


def detect_video(
    predictor: ActionPredictor,
    video: str | Path,
    persons: PersonBoxes | PersonSource,
    stem: Path,
    settings: Settings,
    title: str | None = None,
) -> list[Path]:
    """Write what the people of a video do, in each of the formats; gives the files, all or none of them.

    Args:
        stem: where the files go, to which each format adds its suffix.
        title: of the progress bar; None shows none.

    Raises:
        UserError: the video cannot be read, or a file not be written.
    """
    source = open_source(video, predictor.cfg.DATALOADER.READER)
    options = StreamOptions(
        settings.video_start, settings.start, settings.end, settings.overlap, settings.stopwatch
    )
    stream = predictor.stream(source, persons, every=settings.every, options=options)
    paths = output_paths(stem, settings.formats)
    try:
        with ExitStack() as stack:
            writers = [
                stack.enter_context(WRITERS[name](_output(path, stream, predictor, settings)))
                for name, path in paths.items()
            ]
            stream.sink = next((writer for writer in writers if isinstance(writer, OverlayWriter)), None)
            stack.enter_context(stream)
            _write_all(stream, writers, stack.enter_context(_Progress(stream, options, title)))
    except OSError as error:
        raise UserError(f"{stem.parent}: cannot be written to ({error.strerror or error})") from error
    return list(paths.values())


def _output(path: Path, stream: ActionStream, predictor: ActionPredictor, settings: Settings) -> Output:
    return Output(
        path=path,
        video_id=stream.source.video_id,
        source=stream.source,
        label_map=predictor.label_map,
        video_start=settings.video_start,
        spacing=stream.plan.spacing,
        style=settings.style,
        overlap=settings.overlap,
        stopwatch=settings.stopwatch,
    )


def _write_all(stream: ActionStream, writers: Sequence[ResultWriter], progress: _Progress) -> None:
    """Hand each result to the writers; an interrupt ends a live stream as its end would."""
    while True:
        try:
            for result in stream:
                for writer in writers:
                    writer.write(result)
                progress.update(result.time)
            return
        except KeyboardInterrupt:
            if not stream.source.live:
                raise
            stream.source.close()


class _Progress:
    """A bar in seconds of video, with the speed relative to real time, and what a live stream lost."""

    def __init__(self, stream: ActionStream, options: StreamOptions, title: str | None) -> None:
        times = stream.source.times
        end = options.end if times is None else min(options.end, float(times[-1]))
        total = None if end == float("inf") else round(max(end - options.start, 0), 1)
        self._stream, self._start, self._began = stream, options.start, time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=title,
            disable=True if title is None or not distributed.is_main_process() else None,
            bar_format=_OPEN_BAR if total is None else _BAR,
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, time_of_video: float) -> None:
        """All up to a moment of the video is scored."""
        self._bar.set_postfix_str(self.describe(time_of_video), refresh=False)
        done = max(time_of_video - self._start, 0)
        self._bar.update(done - self._bar.n)

    def describe(self, time_of_video: float) -> str:
        """Speed, and of a live stream latency and losses."""
        stream = self._stream
        if stream.latency is not None:
            return (
                f"{stream.latency:.1f} s behind, dropped {stream.dropped_frames} frames and "
                f"{stream.dropped_keyframes} keyframes"
            )
        return f"{(time_of_video - self._start) / (time.monotonic() - self._began):.2f} x real time"


def _config(args: argparse.Namespace) -> CfgNode:
    if args.config_file:
        return load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
    cfg = read_config(args.weights)
    cfg.merge_from_list(args.opts)
    check_config(cfg)
    return cfg


def _label_map(args: argparse.Namespace) -> LabelMap | None:
    return LabelMap.from_file(args.label_map) if args.label_map else None


def _left_to_do(
    inputs: list[VideoInput], output: Path, formats: Sequence[str], overwrite: bool
) -> list[VideoInput]:
    """The videos of which a file is missing; live ones are always new."""
    todo = [
        found
        for found in inputs
        if overwrite
        or found.is_live
        or not all(path.exists() for path in output_paths(output / found.stem, list(formats)).values())
    ]
    if len(todo) < len(inputs):
        logger.info(
            "%d of %d videos are done already, in %s; --overwrite makes them anew",
            len(inputs) - len(todo),
            len(inputs),
            output,
        )
    return todo


def _patient_group() -> dist.ProcessGroup | None:
    if distributed.get_world_size() == 1:
        return None
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def _finish(failures: list[str], total: int, group: dist.ProcessGroup | None) -> None:
    """Wait for all processes; UserError if any of them met videos that cannot be read."""
    if group is not None:
        lists: list[list[str]] = [[]] * dist.get_world_size()
        dist.all_gather_object(lists, failures, group=group)
        failures = [name for names in lists for name in names]
    if failures:
        some = ", ".join(failures[:5]) + (", ..." if len(failures) > 5 else "")
        raise UserError(f"{len(failures)} of {total} videos failed: {some}")
