"""Annotated videos become a dataset's files: annotations.csv, actions.pbtxt and dataset.yaml."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from vmae_det.data.annotations import GROUND_TRUTH_RULE, ActionBoxes, write_action_csv
from vmae_det.data.box_rows import MAX_TIMESTAMP, box_problem
from vmae_det.data.check.videos import files_by_id
from vmae_det.data.importers.actions import ActionRule
from vmae_det.data.importers.formats import AUTO, Source, find_importer
from vmae_det.data.importers.keyframes import Clock, boxes_at, choose_keyframes
from vmae_det.data.importers.tracks import AnnotatedVideo
from vmae_det.data.label_map import LabelMap, write_label_map
from vmae_det.data.readers import open_video
from vmae_det.utils.errors import DataError, UserError, did_you_mean
from vmae_det.utils.files import write_text

FILES = ("annotations.csv", "actions.pbtxt", "dataset.yaml")


@dataclass(frozen=True)
class ImportOptions:
    """How annotations are read.

    Args:
        format: a name of the registry, or "auto".
        videos: folder of the video files.
        every: seconds between keyframes.
        label_map: names and ids of the actions; None: made of those found.
        video_start: second of the dataset's clock at which every video file starts.
        rate: frames per second of the frame numbers, against what the file or the videos say.
        first_frame: number of a video's first frame in names of images.
        ignored: classes, attributes and actions to pass over.
    """

    format: str = AUTO
    videos: Path | None = None
    every: float = 1.0
    label_map: Path | None = None
    video_start: float = 0.0
    rate: float | None = None
    first_frame: int = 0
    ignored: frozenset[str] = frozenset()


@dataclass
class ImportReport:
    """What became of the annotations: counts, what was left out, and what to look after."""

    videos: int = 0
    keyframes: int = 0
    persons: int = 0
    boxes: int = 0
    labels: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """For people, a few lines."""
        counts = ("videos", "keyframes", "persons", "boxes", "labels", "rows")
        lines = [", ".join(f"{getattr(self, name)} {name}" for name in counts)]
        lines += [f"left out: {count} {what}" for what, count in sorted(self.left_out.items()) if count]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


@dataclass(frozen=True)
class _Row:
    video: str
    seconds: float
    box: tuple[float, ...]
    action: str
    person: int


def import_annotations(
    sources: Sequence[Path], output: Path, options: ImportOptions, overwrite: bool = False
) -> ImportReport:
    """Read annotation files and write a dataset into the folder `output`.

    Raises:
        DataError: a file is not what it should be, or nothing usable is in it; it names the place.
        UserError: the files are there already, or a choice is missing or impossible.
    """
    present = [name for name in FILES if (output / name).exists()]
    if present and not overwrite:
        raise UserError(f"{output / present[0]} is there already; choose another folder, or --overwrite")
    report = ImportReport()
    given = LabelMap.from_file(options.label_map) if options.label_map else None
    videos = _read(sources, options, report)
    points = (point for video in videos for track in video.tracks for point in track.points)
    rule = ActionRule(points, frozenset(given.names if given else ()), options.ignored)
    rows = _rows(videos, rule, options, report)
    if not rows:
        reasons = ", ".join(f"{count} {what}" for what, count in report.left_out.items() if count)
        raise DataError(f"no box with an action is left ({reasons or 'there is none'})", sources[0])
    label_map = given or _label_map(rows)
    _check_names(rows, label_map, options)
    _count(rows, report)
    _write(rows, label_map, output, options)
    return report


def _read(sources: Sequence[Path], options: ImportOptions, report: ImportReport) -> list[AnnotatedVideo]:
    videos = []
    source_of: dict[str, int] = {}
    for number, path in enumerate(sources):
        source = Source(path)
        found = find_importer(source, options.format).read(source)
        for video in found:
            report.left_out.update(video.left_out)
            if source_of.setdefault(video.name, number) != number:
                for track in video.tracks:  # the same id is someone else in another file
                    if track.person is not None:
                        track.person = f"{number}/{track.person}"
        videos += found
    return videos


def _rows(
    videos: list[AnnotatedVideo], rule: ActionRule, options: ImportOptions, report: ImportReport
) -> list[_Row]:
    files = files_by_id(options.videos) if options.videos else {}
    absent = sorted({video.name for video in videos} - files.keys()) if options.videos else []
    if absent:
        report.notes.append(
            f"no file in {options.videos} for {len(absent)} videos, such as {absent[0]}: training needs it"
        )
    persons: dict[str, dict[str, int]] = {}
    rows: dict[_Row, None] = {}
    for video in tqdm(videos, desc="importing", unit="video", disable=None):
        clock, extent = _clock(video, files.get(video.name), options, report)
        ids = persons.setdefault(video.name, {})
        for track in video.tracks:
            if track.person is not None:
                ids.setdefault(track.person, -1)
        _number_persons(ids)
        keyframes = choose_keyframes(video, clock, options.every, options.video_start)
        keyframes.sort(key=lambda keyframe: keyframe.frame)
        for track in video.tracks:
            late = sum(p.box is not None and not clock.first <= p.frame <= clock.last for p in track.points)
            report.left_out["boxes outside the video's time"] += late
            person = -1 if track.person is None else ids[track.person]
            for keyframe, point in boxes_at(track, video.last_frame, keyframes):
                if rule.ignores(point):
                    report.left_out["boxes of ignored classes"] += 1
                    continue
                actions = rule.actions(point)
                box = _relative(point.box, extent)
                if not actions:
                    report.left_out["boxes without an action"] += 1
                elif box is None:
                    report.left_out["boxes that are empty or outside the frame"] += 1
                else:
                    seconds = round(keyframe.seconds + options.video_start, 3) + 0.0
                    if not 0 <= seconds <= MAX_TIMESTAMP:
                        report.left_out["boxes at impossible times"] += 1
                        continue
                    rows.update((_Row(video.name, seconds, box, action, person), None) for action in actions)
    return sorted(rows, key=lambda row: (row.video, row.seconds, row.person, row.box, row.action))


def _clock(
    video: AnnotatedVideo, file: Path | None, options: ImportOptions, report: ImportReport
) -> tuple[Clock, tuple[float, float]]:
    """The clock of a video's frame numbers, and the corner of its frames; DataError says what to give."""
    first = options.first_frame if video.first_frame is None else video.first_frame
    steps = {"step": video.frame_step, "step_from": video.step_from}
    extent, rate, end = video.extent, video.rate, math.inf
    times = None
    if file is not None:
        reader = open_video(file)
        end = float(reader.times[-1]) + 1 / float(reader.rate)
        extent = extent or tuple(float(side) for side in reader.frames(np.array([0])).shape[2:0:-1])
        counted = video.expected_frames in (None, len(reader))
        if counted or rate is None:
            times = reader.times
        elif not video.own_ticks:
            report.notes.append(
                f"{video.name}: its annotations count {video.expected_frames} frames, the file has "
                f"{len(reader)}; times are by their own rate, {rate:.3f} a second"
            )
    if extent is None:
        raise DataError(f"the annotations do not say the frame size of '{video.name}'; give --videos FOLDER")
    if options.rate and not video.own_ticks:
        times, rate = None, options.rate
    if times is not None and not video.own_ticks:
        return Clock(first, times, 1.0, end, **steps), extent
    if rate is None:
        raise DataError(
            f"the annotations do not say the frame rate of '{video.name}'; give --videos FOLDER with its "
            "file, or --rate FPS"
        )
    return Clock(first, None, rate, end, **steps), extent


def _number(person: str) -> int | None:
    """The id itself where it can stand in the CSV."""
    return int(person) if person.isascii() and person.isdigit() and len(person) < 10 else None


def _number_persons(ids: dict[str, int]) -> None:
    """Give each person a number: their own where it is one, else the next that is free."""
    for person, number in ids.items():
        if number < 0 and (own := _number(person)) is not None:
            ids[person] = own
    free = max([-1, *ids.values()]) + 1
    for person, number in ids.items():
        if number < 0:
            ids[person] = free
            free += 1


def _relative(box: tuple[float, ...], extent: tuple[float, float]) -> tuple[float, ...] | None:
    """The part of a box that is in the frame, in [0, 1], six decimals; None if nothing is."""
    width, height = extent
    cut = tuple(round(min(max(v / s, 0.0), 1.0), 6) for v, s in zip(box, (width, height, width, height)))
    return None if box_problem(cut, GROUND_TRUTH_RULE) else cut


def _label_map(rows: list[_Row]) -> LabelMap:
    """The actions found, by name, ids from 1."""
    names = sorted({row.action for row in rows})
    return LabelMap(tuple(range(1, len(names) + 1)), tuple(names), ("",) * len(names))


def _check_names(rows: list[_Row], label_map: LabelMap, options: ImportOptions) -> None:
    unknown = sorted({row.action for row in rows} - set(label_map.names))
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise DataError(
            f"the annotations have actions that it lacks: {', '.join(map(repr, unknown[:10]))}{more} "
            f"(--ignore NAME passes over one){did_you_mean(unknown[0], label_map.names)}",
            options.label_map,
        )


def _count(rows: list[_Row], report: ImportReport) -> None:
    report.rows = len(rows)
    report.videos = len({row.video for row in rows})
    report.keyframes = len({(row.video, row.seconds) for row in rows})
    report.boxes = len({(row.video, row.seconds, row.box, row.person) for row in rows})
    report.persons = len({(row.video, row.person) for row in rows if row.person >= 0})
    report.labels = len({row.action for row in rows})
    unnamed = len({(row.video, row.seconds, row.box) for row in rows if row.person < 0})
    if unnamed:
        report.notes.append(f"{unnamed} boxes do not say who it is; they have no person id")


def _write(rows: list[_Row], label_map: LabelMap, output: Path, options: ImportOptions) -> None:
    names = sorted({row.video for row in rows})
    index = {name: i for i, name in enumerate(names)}
    ids = dict(zip(label_map.names, label_map.ids))
    ordered = sorted(rows, key=lambda row: (row.video, row.seconds, row.person, row.box, ids[row.action]))
    boxes = ActionBoxes(
        videos=np.array(names, dtype=object),
        video=np.array([index[row.video] for row in ordered], dtype=np.int32),
        timestamp=np.array([row.seconds for row in ordered]),
        boxes=np.array([row.box for row in ordered]),
        action=np.array([ids[row.action] for row in ordered], dtype=np.int32),
        score=np.ones(len(ordered)),
        person=np.array([row.person for row in ordered], dtype=np.int32),
    )
    content = {
        "type": "detection",
        "videos": _relative_path(options.videos, output) if options.videos else "videos",
        "annotations": FILES[0],
        "label_map": FILES[1],
        "video_start": options.video_start,
    }
    write_action_csv(output / FILES[0], boxes, kind="ground_truth")
    write_label_map(output / FILES[1], label_map)
    write_text(output / FILES[2], yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _relative_path(folder: Path, base: Path) -> str:
    """The folder as seen from `base`, so that both can be moved together; absolute on another drive."""
    try:
        return Path(os.path.relpath(folder.resolve(), base.resolve())).as_posix()
    except ValueError:
        return str(folder.resolve())
