"""VIA 3 projects (VGG Image Annotator): boxes in video frames or in images of frames, and temporal segments.

See https://gitlab.com/vgg/via (via-3.x.y): `xy` is [2, x, y, width, height] in pixels, `z` holds seconds,
`av` attribute values, which for choices are ids of options, several of them separated by commas.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vmae_det.dataset_tools.importers.actions import Identities, attribute_actions
from vmae_det.dataset_tools.importers.formats import IMPORTER_REGISTRY, Importer, Source
from vmae_det.dataset_tools.importers.json_tree import Json
from vmae_det.dataset_tools.importers.names import Origins, frame_of_image, video_id
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo, Point, Track, ordered_points
from vmae_det.utils.errors import DataError

_CHECKBOX = 2  # type of an attribute
_RECTANGLES = (2, 8)  # rectangle, and rectangle by extreme points
_IMAGE = 2
_TICKS = 1000  # a second: times are kept as whole milliseconds


@dataclass
class _Region:
    """One piece of metadata: ticks or frame, perhaps an end, perhaps a box."""

    start: int
    end: int
    box: tuple[float, float, float, float] | None
    attributes: tuple[tuple[str, str], ...]
    person: str | None


@IMPORTER_REGISTRY.register_as("via3")
class Via3Importer(Importer):
    """Reads a VIA 3 project."""

    def recognises(self, source: Source) -> bool:
        """Whether it has VIA 3's tables."""
        root = source.json.value if not source.is_xml else None
        return isinstance(root, dict) and {"metadata", "file", "attribute"} <= root.keys()

    def read(self, source: Source) -> list[AnnotatedVideo]:
        """One video for each video file, and one for each video whose frames are images."""
        root = source.json
        identities = _identities(root)
        videos: dict[tuple[str | None, bool], AnnotatedVideo] = {}
        regions: dict[tuple[str | None, bool], list[_Region]] = {}
        origins = Origins()
        for _, entry in root.need("metadata").entries():
            name, frame, picture = _file_of(entry, root, origins)
            key = (name, frame is None)
            if key not in videos:
                videos[key] = (
                    AnnotatedVideo(name, rate=_TICKS, own_ticks=True)
                    if frame is None
                    else AnnotatedVideo(name, first_frame=None, picture=picture)
                )
                regions[key] = []
            region = _region(entry, root, frame, videos[key], identities)
            if region:
                regions[key].append(region)
        for key, video in videos.items():
            video.tracks = _tracks(regions[key], video.left_out)
            video.remarks = identities.remarks()
        return list(videos.values())


def _file_of(entry: Json, root: Json, origins: Origins) -> tuple[str | None, int | None, str | None]:
    """Video id, and where the file is an image the frame's number and the image's name."""
    view = root.need("view").need(entry.need("vid").key())
    files = view.need("fid_list").items()
    if len(files) != 1:
        view.fail("a view of one file")
    file = root.need("file").need(files[0].key())
    name = file.need("fname", "src")
    text, kind = name.text(), file.get("type")
    try:
        if kind is None or kind.value != _IMAGE:
            video = video_id(text)
            origins.add(video, text)
            return video, None, None
        video, frame = frame_of_image(text)
        origins.add(video, text, frame)
    except DataError as error:
        raise name.named(error) from None
    return video, frame, text


def _identities(root: Json) -> Identities:
    """By the types and options of attributes, and by the values that regions have."""
    identities = Identities()
    used: dict[str, set[str]] = {}
    for _, entry in root.need("metadata").entries():
        for key, value in entry.get("av").entries() if entry.get("av") else ():
            used.setdefault(key, set()).add(str(value.value))
    for key, attribute in root.need("attribute").entries():
        name, kind = attribute.need("aname").text(), attribute.get("type")
        options = dict(attribute.get("options").entries()) if attribute.get("options") else {}
        several = kind is not None and kind.value in (_CHECKBOX, str(_CHECKBOX))
        several |= any("," in value and value not in options for value in used.get(key, ()) if options)
        identities.add(name, [o.text() for o in options.values()] or used.get(key, ()), several)
    return identities


def _region(
    entry: Json, root: Json, frame: int | None, video: AnnotatedVideo, identities: Identities
) -> _Region | None:
    xy, z = entry.get("xy"), entry.get("z")
    times = [item.number() for item in z.items()] if z else []
    box = None
    if xy and xy.items():
        if xy.items()[0].value not in _RECTANGLES:
            video.left_out["shapes other than boxes"] += 1
            return None
        _, x, y, width, height = xy.numbers(5, "2, x, y, width, height")
        box = (x, y, x + width, y + height)
    if frame is not None:
        start = end = frame
    elif not times or min(times) < 0:
        if box is None:
            video.left_out["attributes of a whole video"] += bool(_attributes(entry, root, identities)[0])
            return None
        (z or entry).fail("the times of a box in a video, [seconds], from 0 on")
    else:
        start, end = round(min(times) * _TICKS), round(max(times) * _TICKS)
    attributes, person = _attributes(entry, root, identities)
    return _Region(start, end, box, attributes, person)


def _attributes(
    entry: Json, root: Json, identities: Identities
) -> tuple[tuple[tuple[str, str], ...], str | None]:
    found: tuple[tuple[str, str], ...] = ()
    person = None
    values = entry.get("av")
    for key, value in values.entries() if values else ():
        attribute = root.need("attribute").need(key)
        name = attribute.need("aname").text()
        options = dict(attribute.get("options").entries()) if attribute.get("options") else {}
        text = str(value.value) if isinstance(value.value, bool) else value.key()
        if name in identities:
            person = options[text].text() if text in options else text or None
            continue
        chosen = [text] if text in options or not options else [part.strip() for part in text.split(",")]
        for part in chosen:
            found += attribute_actions(name, options[part].text() if part in options else part, identities)
    return found, person


def _tracks(regions: list[_Region], left_out: Counter[str]) -> list[Track]:
    """A track for each person that is named, else for each box; segments give their actions to the boxes in
    their time, those that name a person to that person's only."""
    segments = [region for region in regions if region.box is None]
    by_person: dict[str, list[Point]] = {}
    tracks = []
    for region in regions:
        if region.box is None:
            continue
        attributes = region.attributes
        for segment in segments:
            if segment.start <= region.start <= segment.end and segment.person in (None, region.person):
                attributes += segment.attributes
        point = Point(region.start, region.box, (), tuple(dict.fromkeys(attributes)))
        points = [point]
        if region.end > region.start:
            points = [point._replace(goes_on=True), point._replace(frame=region.end)]
        if region.person is None or len(points) > 1:
            tracks.append(Track(region.person, points))
        else:
            by_person.setdefault(region.person, []).append(point)
    return tracks + [Track(person, ordered_points(points, left_out)) for person, points in by_person.items()]
