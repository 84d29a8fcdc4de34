"""Import VIA 3 projects (VGG Image Annotator): boxes in video frames or frame images, and temporal segments.

See https://gitlab.com/vgg/via (via-3.x.y). `xy` is [2, x, y, width, height] in pixels. `z` contains seconds.
`av` contains attribute values; those of choices are option ids, separated by commas.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vmae_det.dataset_tools.importers.actions import IdentityAttributes, attribute_actions
from vmae_det.dataset_tools.importers.base import IMPORTER_REGISTRY, AnnotationFile, Importer
from vmae_det.dataset_tools.importers.documents import JsonValue
from vmae_det.dataset_tools.importers.file_names import UniqueFiles, parse_image_name, video_id
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo, Track, TrackPoint, merge_points
from vmae_det.utils.errors import DataError

_CHECKBOX = 2  # type of an attribute
_RECTANGLES = (2, 8)  # shape ids of a rectangle, and of a rectangle by extreme points
_IMAGE = 2  # type of a file
_TICKS = 1000  # per second: times are stored in integer milliseconds


@dataclass
class _Region:
    """An entry of `metadata`: a box at a time or over time, or a temporal segment (no box).

    `start` and `end` are ticks in a video file, and the frame number in an image.
    """

    start: int
    end: int
    box: tuple[float, float, float, float] | None
    attributes: tuple[tuple[str, str], ...]
    person: str | None


@IMPORTER_REGISTRY.register_as("via3")
class Via3Importer(Importer):
    """Reads VIA 3 projects."""

    def recognizes(self, file: AnnotationFile) -> bool:
        """Return whether the file has VIA 3's tables."""
        root = file.json.value if not file.is_xml else None
        return isinstance(root, dict) and {"metadata", "file", "attribute"} <= root.keys()

    def read(self, file: AnnotationFile) -> list[AnnotatedVideo]:
        """Return one video for each video file, and one for each video whose frames are images."""
        root = file.json
        identities = _identities(root)
        videos: dict[tuple[str | None, bool], AnnotatedVideo] = {}
        regions: dict[tuple[str | None, bool], list[_Region]] = {}
        files = UniqueFiles()
        for _, entry in root.require("metadata").entries():
            name, frame, image_name = _read_file(entry, root, files)
            key = (name, frame is None)
            if key not in videos:
                videos[key] = (
                    AnnotatedVideo(name, frame_rate=_TICKS, frames_are_ticks=True)
                    if frame is None
                    else AnnotatedVideo(name, first_frame=None, image_name=image_name)
                )
                regions[key] = []
            region = _read_region(entry, root, frame, videos[key], identities)
            if region:
                regions[key].append(region)
        for key, video in videos.items():
            video.tracks = _make_tracks(regions[key], video.skipped)
            video.notes = identities.notes()
        return list(videos.values())


def _read_file(
    entry: JsonValue, root: JsonValue, files: UniqueFiles
) -> tuple[str | None, int | None, str | None]:
    """Return the video's id and, for an image, its frame number and its name."""
    view = root.require("view").require(entry.require("vid").identifier())
    ids = view.require("fid_list").items()
    if len(ids) != 1:
        view.fail("a view of one file")
    file = root.require("file").require(ids[0].identifier())
    name = file.require("fname", "src")
    text, kind = name.text(), file.get("type")
    try:
        if kind is None or kind.value != _IMAGE:
            video = video_id(text)
            files.add(video, text)
            return video, None, None
        video, frame = parse_image_name(text)
        files.add(video, text, frame)
    except DataError as error:
        raise name.located(error) from None
    return video, frame, text


def _identities(root: JsonValue) -> IdentityAttributes:
    """Collect attributes: their types and options, and the values of regions."""
    identities = IdentityAttributes()
    used: dict[str, set[str]] = {}
    for _, entry in root.require("metadata").entries():
        for key, value in entry.get("av").entries() if entry.get("av") else ():
            used.setdefault(key, set()).add(str(value.value))
    for key, attribute in root.require("attribute").entries():
        name, kind = attribute.require("aname").text(), attribute.get("type")
        options = dict(attribute.get("options").entries()) if attribute.get("options") else {}
        multi_valued = kind is not None and kind.value in (_CHECKBOX, str(_CHECKBOX))
        multi_valued |= any("," in value and value not in options for value in used.get(key, ()) if options)
        identities.add(name, [o.text() for o in options.values()] or used.get(key, ()), multi_valued)
    return identities


def _read_region(
    entry: JsonValue,
    root: JsonValue,
    frame: int | None,
    video: AnnotatedVideo,
    identities: IdentityAttributes,
) -> _Region | None:
    xy, z = entry.get("xy"), entry.get("z")
    times = [item.number() for item in z.items()] if z else []
    box = None
    if xy and xy.items():
        if xy.items()[0].value not in _RECTANGLES:
            video.skipped["shapes other than boxes"] += 1
            return None
        _, x, y, width, height = xy.numbers(5, "2, x, y, width, height")
        box = (x, y, x + width, y + height)
    if frame is not None:
        start = end = frame
    elif not times or min(times) < 0:
        if box is None:
            video.skipped["attributes of a whole video"] += bool(_attributes(entry, root, identities)[0])
            return None
        (z or entry).fail("the times of a box in a video, [seconds], not negative")
    else:
        start, end = round(min(times) * _TICKS), round(max(times) * _TICKS)
    attributes, person = _attributes(entry, root, identities)
    return _Region(start, end, box, attributes, person)


def _attributes(
    entry: JsonValue, root: JsonValue, identities: IdentityAttributes
) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """Return (attribute, action) pairs, and the person's id if an attribute identifies the person."""
    found: tuple[tuple[str, str], ...] = ()
    person = None
    values = entry.get("av")
    for key, value in values.entries() if values else ():
        attribute = root.require("attribute").require(key)
        name = attribute.require("aname").text()
        options = dict(attribute.get("options").entries()) if attribute.get("options") else {}
        text = str(value.value) if isinstance(value.value, bool) else value.identifier()
        if name in identities:
            person = options[text].text() if text in options else text or None
            continue
        chosen = [text] if text in options or not options else [part.strip() for part in text.split(",")]
        for part in chosen:
            found += attribute_actions(name, options[part].text() if part in options else part, identities)
    return found, person


def _make_tracks(regions: list[_Region], skipped: Counter[str]) -> list[Track]:
    """Return a track for each identified person, and one for each other box.

    Temporal segments add their actions to the boxes in their time; a segment that identifies a person, only
    to that person's boxes.
    """
    segments = [region for region in regions if region.box is None]
    by_person: dict[str, list[TrackPoint]] = {}
    tracks = []
    for region in regions:
        if region.box is None:
            continue
        attributes = region.attributes
        for segment in segments:
            if segment.start <= region.start <= segment.end and segment.person in (None, region.person):
                attributes += segment.attributes
        point = TrackPoint(region.start, region.box, (), tuple(dict.fromkeys(attributes)))
        points = [point]
        if region.end > region.start:
            points = [point._replace(continues=True), point._replace(frame=region.end)]
        if region.person is None or len(points) > 1:
            tracks.append(Track(region.person, points))
        else:
            by_person.setdefault(region.person, []).append(point)
    return tracks + [Track(person, merge_points(points, skipped)) for person, points in by_person.items()]
