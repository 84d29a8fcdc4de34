"""Annotated videos become a dataset's files: annotations.csv, actions.pbtxt and dataset.yaml."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from vmae_det.dataset_tools.check.videos import files_by_id
from vmae_det.dataset_tools.importers.actions import ActionRule
from vmae_det.dataset_tools.importers.formats import Source, find_importer
from vmae_det.dataset_tools.importers.frame_fit import check_unit, describe_cut
from vmae_det.dataset_tools.importers.keyframes import boxes_at, choose_keyframes
from vmae_det.dataset_tools.importers.options import ImportOptions, ImportReport
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo, Point, Range, said_between, spans
from vmae_det.dataset_tools.importers.video_clock import clock_of
from vmae_det.formats.ava_csv import GROUND_TRUTH_RULE, ActionBoxes, write_action_csv
from vmae_det.formats.box_csv import MAX_TIMESTAMP, box_problem
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.utils.errors import ConfigError, DataError, UserError, did_you_mean
from vmae_det.utils.files import write_text

FILES = ("annotations.csv", "actions.pbtxt", "dataset.yaml")


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
    files = files_by_id(options.videos) if options.videos else {}
    videos = _read(sources, files, options, report)
    points = (point for video in videos for point in _with_ranges(video))
    if options.frame_size is not None and all(video.extent is not None for video in videos):
        raise ConfigError("--frame-size: the annotations say the frame size themselves")
    rule = ActionRule(points, frozenset(given.names if given else ()), options.ignored)
    rows = _rows(videos, files, rule, options, report)
    if not rows:
        reasons = ", ".join(f"{count} {what}" for what, count in report.left_out.items() if count)
        raise DataError(f"no box with an action is left ({reasons or 'there is none'})", sources[0])
    label_map = given or _label_map(rows)
    _check_names(rows, label_map, options)
    _count(rows, report)
    _write(rows, label_map, output, options)
    return report


def _read(
    sources: Sequence[Path], files: Mapping[str, Path], options: ImportOptions, report: ImportReport
) -> list[AnnotatedVideo]:
    videos = []
    remarks: dict[str, None] = {}
    source_of: dict[str, int] = {}
    named = False
    for number, path in enumerate(sources):
        source = Source(path)
        found = find_importer(source, options.format).read(source)
        unnamed = [video for video in found if video.name is None]
        if unnamed:
            name, why = _name_video(source.path, unnamed[0], files, options)
            remarks[f"{source.path.name} does not name its video: it is read as that of '{name}', {why}"] = (
                None
            )
        for video in found:
            remarks.update(dict.fromkeys(video.remarks))
            video.name = name if video.name is None else video.name
            report.left_out.update(video.left_out)
            if source_of.setdefault(video.name, number) != number:
                for track in video.tracks:  # the same id is someone else in another file
                    if track.person is not None:
                        track.person = f"{number}/{track.person}"
        videos += found
        named |= bool(unnamed)
    if options.video is not None and not named:
        some = ", ".join(sorted({video.name for video in videos})[:3])
        raise ConfigError(f"--video: the annotations name their videos themselves ({some})")
    report.notes += remarks
    return videos


def _name_video(
    source: Path, video: AnnotatedVideo, files: Mapping[str, Path], options: ImportOptions
) -> tuple[str, str]:
    """The video that a file means which does not say it, and why."""
    if options.video is not None:
        return options.video, "by --video"
    if source.stem in files:
        return source.stem, "by the file's own name"
    if len(files) == 1:
        return next(iter(files)), f"the only one in {options.videos}"
    images = f" (its images are named like {video.picture})" if video.picture else ""
    raise DataError(
        f"does not say of which video its annotations are{images}; give --video NAME, or name the file as "
        "the video in --videos",
        source,
    )


def _with_ranges(video: AnnotatedVideo) -> Iterator[Point]:
    """The points of a video; each with the actions, too, that ranges give to the stretch which it begins."""
    for track in video.tracks:
        ends = dict(spans(track, video.last_frame))
        for point in track.points:
            said = said_between(video.ranges, point.frame, ends.get(point.frame, point.frame))
            yield point._replace(attributes=point.attributes + said)


def _rows(
    videos: list[AnnotatedVideo],
    files: Mapping[str, Path],
    rule: ActionRule,
    options: ImportOptions,
    report: ImportReport,
) -> list[_Row]:
    absent = sorted({video.name for video in videos} - files.keys()) if options.videos else []
    if absent:
        report.notes.append(
            f"no file in {options.videos} for {len(absent)} videos, such as {absent[0]}: training needs it"
        )
    persons: dict[str, dict[str, int]] = {}
    rows: dict[_Row, None] = {}
    for video in tqdm(videos, desc="importing", unit="video", disable=None):
        clock, extent = clock_of(video, files.get(video.name), options, report)
        check_unit(video, extent)
        report.notes += describe_cut(video, extent)
        ids = persons.setdefault(video.name, {})
        for track in video.tracks:
            if track.person is not None:
                ids.setdefault(track.person, -1)
        _number_persons(ids)
        keyframes = choose_keyframes(video, clock, options.every, options.video_start)
        keyframes.sort(key=lambda keyframe: keyframe.frame)
        met: set[Range] = set()
        for track in video.tracks:
            late = sum(p.box is not None and not clock.has(p.frame) for p in track.points)
            report.left_out["boxes outside the video's time"] += late
            person = -1 if track.person is None else ids[track.person]
            for keyframe, point in boxes_at(track, video.last_frame, keyframes):
                if rule.ignores(point):
                    report.left_out["boxes of ignored classes"] += 1
                    continue
                said = said_between(video.ranges, keyframe.frame, keyframe.frame)
                met.update(one for one in video.ranges if one.start <= keyframe.frame <= one.end)
                actions = rule.actions(point._replace(attributes=point.attributes + said))
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
        report.left_out["ranges of time without a box"] += len(set(video.ranges) - met)
        if video.ranges and len(video.tracks) > 1:
            report.notes.append(
                f"{video.name}: the actions of ranges of time are those of everyone who has a box then"
            )
    return sorted(rows, key=lambda row: (row.video, row.seconds, row.person, row.box, row.action))


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
