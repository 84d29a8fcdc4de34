"""Convert annotation files to a dataset in AVA format: annotations.csv, actions.pbtxt and dataset.yaml.

AVA's format has no row for a person without an action. If there are such persons, annotated_persons.csv
contains the boxes of everyone, and annotations.csv has a row without a box for a keyframe without actions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from vmae_det.dataset_tools.check.videos import files_by_id
from vmae_det.dataset_tools.importers.actions import ActionResolver
from vmae_det.dataset_tools.importers.base import (
    AnnotationFile,
    ImportOptions,
    ImportReport,
    find_importer,
)
from vmae_det.dataset_tools.importers.frames import (
    boxes_outside_warning,
    check_box_units,
    frame_clock_and_size,
)
from vmae_det.dataset_tools.importers.keyframes import choose_keyframes, sample_track
from vmae_det.dataset_tools.importers.tracks import (
    ActionSegment,
    AnnotatedVideo,
    TrackPoint,
    segment_actions,
    visible_spans,
)
from vmae_det.formats.ava_csv import GROUND_TRUTH_RULE, ActionBoxes, write_action_csv
from vmae_det.formats.box_csv import MAX_TIMESTAMP, box_problem
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.formats.person_boxes import format_person_boxes
from vmae_det.utils.errors import ConfigError, DataError, UserError, did_you_mean
from vmae_det.utils.output_files import write_text
from vmae_det.utils.paths import relative_path

FILES = ("annotations.csv", "actions.pbtxt", "dataset.yaml")
PERSONS = "annotated_persons.csv"


@dataclass(frozen=True)
class _Row:
    """A box with an action, or "" for a person without one; `person` is -1 if unknown."""

    video: str
    seconds: float
    box: tuple[float, ...]
    action: str
    person: int


def import_annotations(
    sources: Sequence[Path], output: Path, options: ImportOptions, overwrite: bool = False
) -> ImportReport:
    """Read annotation files and write a dataset to the folder `output`.

    Raises:
        DataError: a file is invalid, or contains nothing usable; the error names the location.
        UserError: the dataset's files already exist, or an option is missing or invalid.
    """
    present = [name for name in (*FILES, PERSONS) if (output / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"{output / present[0]} already exists; choose another folder, or pass --overwrite to replace it"
        )
    report = ImportReport()
    given = LabelMap.from_file(options.label_map) if options.label_map else None
    files = files_by_id(options.videos) if options.videos else {}
    videos = _read_sources(sources, files, options, report)
    points = (point for video in videos for point in _points_with_segments(video))
    if options.frame_size is not None and all(video.frame_size is not None for video in videos):
        raise ConfigError("--frame-size: the annotations already contain the frame size; omit this option")
    resolver = ActionResolver(points, frozenset(given.names if given else ()), options.ignored)
    everyone = _make_rows(videos, files, resolver, options, report)
    rows = [row for row in everyone if row.action]
    idle = len(everyone) - len(rows)
    if not rows:
        skipped = Counter({"boxes without an action": idle}) + report.skipped
        reasons = ", ".join(f"{count} {what}" for what, count in skipped.items())
        raise DataError(f"no box with an action; skipped: {reasons or 'nothing'}", sources[0])
    label_map = given or _label_map(rows)
    _check_actions(rows, label_map, options)
    _count(rows, report)
    if idle:
        report.notes.append(f"{idle} boxes without an action are negatives; {PERSONS} contains all boxes")
    _write(everyone, label_map, output, options)
    return report


def _read_sources(
    sources: Sequence[Path], files: Mapping[str, Path], options: ImportOptions, report: ImportReport
) -> list[AnnotatedVideo]:
    videos = []
    notes: dict[str, None] = {}
    source_of_video: dict[str, int] = {}
    any_unnamed = False
    for number, path in enumerate(sources):
        source = AnnotationFile(path)
        found = find_importer(source, options.format).read(source)
        unnamed = [video for video in found if video.name is None]
        if unnamed:
            name, reason = _name_video(source.path, unnamed[0], files, options)
            notes[f"{source.path.name} does not name its video; using '{name}' ({reason})"] = None
        for video in found:
            notes.update(dict.fromkeys(video.notes))
            video.name = name if video.name is None else video.name
            report.skipped.update(video.skipped)
            if source_of_video.setdefault(video.name, number) != number:
                for track in video.tracks:  # the same id is another person in another file
                    if track.person is not None:
                        track.person = f"{number}/{track.person}"
        videos += found
        any_unnamed |= bool(unnamed)
    if options.video is not None and not any_unnamed:
        names = ", ".join(sorted({video.name for video in videos})[:3])
        raise ConfigError(f"--video: the annotations already name their videos ({names}); omit this option")
    report.notes += notes
    return videos


def _name_video(
    source: Path, video: AnnotatedVideo, files: Mapping[str, Path], options: ImportOptions
) -> tuple[str, str]:
    """Return the id of the video of a file that does not name it, and the reason for the choice."""
    if options.video is not None:
        return options.video, "from --video"
    if source.stem in files:
        return source.stem, "from the name of the file"
    if len(files) == 1:
        return next(iter(files)), f"the only video in {options.videos}"
    images = f" (its images have names such as {video.image_name})" if video.image_name else ""
    raise DataError(
        f"the file does not name its video{images}; pass --video NAME, or name the file after the video in "
        "--videos",
        source,
    )


def _points_with_segments(video: AnnotatedVideo) -> Iterator[TrackPoint]:
    """Yield the points of a video, with the actions of the segments that overlap the point's span."""
    for track in video.tracks:
        ends = dict(visible_spans(track, video.last_frame))
        for point in track.points:
            actions = segment_actions(video.segments, point.frame, ends.get(point.frame, point.frame))
            yield point._replace(attributes=point.attributes + actions)


def _make_rows(
    videos: list[AnnotatedVideo],
    files: Mapping[str, Path],
    resolver: ActionResolver,
    options: ImportOptions,
    report: ImportReport,
) -> list[_Row]:
    absent = sorted({video.name for video in videos} - files.keys()) if options.videos else []
    if absent:
        report.notes.append(
            f"{len(absent)} videos, such as {absent[0]}, have no file in {options.videos}; training needs it"
        )
    persons: dict[str, dict[str, int]] = {}
    rows: dict[_Row, None] = {}
    for video in tqdm(videos, desc="importing", unit="video", disable=None):
        clock, frame_size = frame_clock_and_size(video, files.get(video.name), options, report)
        check_box_units(video, frame_size)
        report.notes += boxes_outside_warning(video, frame_size)
        ids = persons.setdefault(video.name, {})
        for track in video.tracks:
            if track.person is not None:
                ids.setdefault(track.person, -1)
        _number_persons(ids)
        keyframes = choose_keyframes(video, clock, options.every, options.video_start)
        keyframes.sort(key=lambda keyframe: keyframe.frame)
        used: set[ActionSegment] = set()
        for track in video.tracks:
            outside = sum(p.box is not None and not clock.has(p.frame) for p in track.points)
            report.skipped["boxes outside the video's time"] += outside
            person = -1 if track.person is None else ids[track.person]
            for keyframe, point in sample_track(track, video.last_frame, keyframes):
                shared = segment_actions(video.segments, keyframe.frame, keyframe.frame)
                point = point._replace(attributes=point.attributes + shared)
                if resolver.is_ignored(point):
                    report.skipped["boxes of ignored classes"] += 1
                    continue
                used.update(one for one in video.segments if one.start <= keyframe.frame <= one.end)
                actions = resolver.actions(point) or ("",)
                box = _relative_box(point.box, frame_size)
                if box is None:
                    report.skipped["boxes that are empty or outside the frame"] += 1
                else:
                    seconds = round(keyframe.seconds + options.video_start, 3) + 0.0
                    if not 0 <= seconds <= MAX_TIMESTAMP:
                        report.skipped["boxes at times out of range"] += 1
                        continue
                    rows.update((_Row(video.name, seconds, box, action, person), None) for action in actions)
        report.skipped["segments without a box"] += len(set(video.segments) - used)
        if video.segments and len(video.tracks) > 1:
            report.notes.append(
                f"{video.name}: the actions of a segment are assigned to every person visible in it"
            )
    return sorted(rows, key=lambda row: (row.video, row.seconds, row.person, row.box, row.action))


def _number_persons(ids: dict[str, int]) -> None:
    """Assign a number to each person: their id if the CSV can store it, else the next free number."""
    for person, number in ids.items():
        if number < 0 and person.isascii() and person.isdigit() and len(person) < 10:
            ids[person] = int(person)
    free = max([-1, *ids.values()]) + 1
    for person, number in ids.items():
        if number < 0:
            ids[person] = free
            free += 1


def _relative_box(box: tuple[float, ...], frame_size: tuple[float, float]) -> tuple[float, ...] | None:
    """Return a box clipped to the frame, in [0, 1] with six decimals; None if nothing is left."""
    width, height = frame_size
    clipped = tuple(round(min(max(v / s, 0.0), 1.0), 6) for v, s in zip(box, (width, height, width, height)))
    return None if box_problem(clipped, GROUND_TRUTH_RULE) else clipped


def _label_map(rows: list[_Row]) -> LabelMap:
    """Build a label map of the actions found, sorted by name, with ids from 1."""
    names = sorted({row.action for row in rows})
    return LabelMap(tuple(range(1, len(names) + 1)), tuple(names), ("",) * len(names))


def _check_actions(rows: list[_Row], label_map: LabelMap, options: ImportOptions) -> None:
    unknown = sorted({row.action for row in rows} - set(label_map.names))
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise DataError(
            "actions of the annotations are missing from this label map: "
            f"{', '.join(map(repr, unknown[:10]))}{more}; add them, or pass --ignore "
            f"NAME{did_you_mean(unknown[0], label_map.names)}",
            options.label_map,
        )


def _count(rows: list[_Row], report: ImportReport) -> None:
    report.rows = len(rows)
    report.videos = len({row.video for row in rows})
    report.keyframes = len({(row.video, row.seconds) for row in rows})
    report.boxes = len({(row.video, row.seconds, row.box, row.person) for row in rows})
    report.persons = len({(row.video, row.person) for row in rows if row.person >= 0})
    report.labels = len({row.action for row in rows})
    anonymous = len({(row.video, row.seconds, row.box) for row in rows if row.person < 0})
    if anonymous:
        report.notes.append(f"{anonymous} boxes do not identify the person; they have no person id")


def _write(everyone: list[_Row], label_map: LabelMap, output: Path, options: ImportOptions) -> None:
    """Write the dataset of persons with and without actions."""
    names = sorted({row.video for row in everyone})
    index = {name: i for i, name in enumerate(names)}
    ids = dict(zip(label_map.names, label_map.ids)) | {"": -1}
    active = {(row.video, row.seconds) for row in everyone if row.action}
    rows = {row for row in everyone if row.action}
    no_box = (np.nan,) * 4
    rows |= {
        _Row(row.video, row.seconds, no_box, "", -1)
        for row in everyone
        if (row.video, row.seconds) not in active
    }
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
        "videos": relative_path(options.videos, output) if options.videos else "videos",
        "annotations": FILES[0],
        "label_map": FILES[1],
        "video_start": options.video_start,
    }
    if not all(row.action for row in everyone):
        persons = dict.fromkeys((row.video, row.seconds, row.box) for row in everyone)
        lines = (format_person_boxes(v, seconds, np.array([box]), np.ones(1)) for v, seconds, box in persons)
        write_text(output / PERSONS, "".join(line for group in lines for line in group))
        content["person_boxes"] = PERSONS
        content["complete_persons"] = False  # the annotations have no rows of people without an action
    write_action_csv(output / FILES[0], boxes, kind="ground_truth")
    write_label_map(output / FILES[1], label_map)
    write_text(output / FILES[2], yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
