"""The work of `vmae-det detect`: video after video, each to its files."""

from __future__ import annotations

import argparse
import datetime
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import distributed as dist
from tqdm import tqdm

from vmae_det.cli.common import load_weights_config
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes, read_person_boxes
from vmae_det.inference.person_sources import PersonSource, WholeFramePerson
from vmae_det.inference.predictor import ActionPredictor
from vmae_det.rendering.detect_video import Settings, detect_video, unfinished_mark
from vmae_det.rendering.overlay_writer import OverlayStyle
from vmae_det.rendering.result_writers import output_paths
from vmae_det.utils import distributed
from vmae_det.utils.errors import UserError
from vmae_det.utils.logging import setup_logging
from vmae_det.video.discovery import VideoInput

logger = logging.getLogger(__name__)

# Processes wait for one another at the end, for as long as the longest video takes.
_PATIENCE = datetime.timedelta(days=30)


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
        predictor = ActionPredictor(load_weights_config(args), _label_map(args), args.actions)
        persons = _persons(args)
        style = OverlayStyle(args.top_k, args.threshold, args.timeline, args.font)
        settings = Settings(formats, args.every, args.video_start, args.start, args.end, args.smooth, style)
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


def _persons(args: argparse.Namespace) -> PersonBoxes | PersonSource | None:
    if args.whole_frame:
        return WholeFramePerson()
    return read_person_boxes(args.boxes) if args.boxes else None


def _label_map(args: argparse.Namespace) -> LabelMap | None:
    return LabelMap.from_file(args.label_map) if args.label_map else None


def _left_to_do(
    inputs: list[VideoInput], output: Path, formats: Sequence[str], overwrite: bool
) -> list[VideoInput]:
    """The videos of which a file is missing or holds a part only; live ones are always new."""
    todo = [
        found
        for found in inputs
        if overwrite
        or found.is_live
        or unfinished_mark(output / found.stem).exists()
        or not all(path.is_file() for path in output_paths(output / found.stem, list(formats)).values())
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
