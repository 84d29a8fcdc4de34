"""COCO JSON: images that are frames of videos, boxes with categories, with or without a `videos` table.

See https://cocodataset.org/#format-data; `videos`, `video_id`, `frame_id` and `track_id` (or `instance_id`)
are those of the tracking datasets in this form (CocoVID, TAO).
"""

from __future__ import annotations

from collections.abc import Iterator

from vmae_det.data.importers.actions import attribute_actions, clean_name
from vmae_det.data.importers.formats import IMPORTER_REGISTRY, Importer, Source
from vmae_det.data.importers.json_tree import Json
from vmae_det.data.importers.names import frame_of_image, video_id
from vmae_det.data.importers.tracks import AnnotatedVideo, Point, Track, ordered_points
from vmae_det.utils.errors import DataError

_PERSON_KEYS = ("track_id", "instance_id", "person_id")


@IMPORTER_REGISTRY.register_as("coco")
class CocoImporter(Importer):
    """Reads COCO's annotation files."""

    def recognises(self, source: Source) -> bool:
        """Whether it has COCO's tables."""
        root = source.json.value if not source.is_xml else None
        return isinstance(root, dict) and {"images", "annotations"} <= root.keys()

    def read(self, source: Source) -> list[AnnotatedVideo]:
        """One video for each video id and frame size; annotations of one image and track, or with the same
        box, are actions of one person."""
        root = source.json
        categories = _by_id(root.get("categories"))
        tables = _by_id(root.get("videos"))
        images = {
            key: _frame_of(image, tables) for key, image in _by_id(root.need("images"), required=True).items()
        }
        videos: dict[tuple[str, tuple[float, float] | None], AnnotatedVideo] = {}
        points: dict[tuple[str, tuple[float, float] | None], dict[object, list[Point]]] = {}
        for annotation in root.need("annotations").items():
            reference = annotation.need("image_id")
            image = images.get(reference.key())
            if image is None:
                reference.fail("the id of an image in $.images")
            video, frame = image
            key = (video.name, video.extent)
            videos.setdefault(key, video)
            if (bbox := annotation.get("bbox")) is None or bbox.value == []:
                videos[key].left_out["annotations without a box"] += 1
                continue
            x, y, width, height = bbox.numbers(4, "x, y, width, height")
            box = (x, y, x + width, y + height)
            point = Point(
                frame,
                box,
                _category(annotation, categories),
                tuple(_attributes(annotation.get("attributes"))),
            )
            person = _person(annotation)
            who = person if person is not None else (frame, box)
            points.setdefault(key, {}).setdefault(who, []).append(point)
        for key, video in videos.items():
            video.tracks = [
                Track(who if isinstance(who, str) else None, ordered_points(found))
                for who, found in points.get(key, {}).items()
            ]
        return list(videos.values())


def _by_id(table: Json | None, required: bool = False) -> dict[str, Json]:
    if table is None:
        return {}
    found = {}
    for entry in table.items():
        number = entry.need("id") if required else entry.get("id")
        if number is not None:
            found[number.key()] = entry
    return found


def _frame_of(image: Json, tables: dict[str, Json]) -> tuple[AnnotatedVideo, int]:
    """An empty AnnotatedVideo that says what the image does, and the frame's number."""
    size = (image.get("width"), image.get("height"))
    known = all(side is not None and side.number() > 0 for side in size)
    extent = (size[0].positive(), size[1].positive()) if known else None
    reference = image.get("video_id", "video")
    table = tables.get(reference.key()) if reference else None
    if reference and tables and table is None:
        reference.fail("the id of a video in $.videos")
    number = image.get("frame_id", "frame_index", "frame_number", "frame")
    named, frame = None, number.whole() if number else None
    if number is None or reference is None:
        name = image.need("file_name")
        try:
            named, from_name = frame_of_image(name.text())
        except DataError as error:
            raise name.named(error) from None
        frame = from_name if frame is None else frame
    if reference is not None:
        title = table.need("name", "file_name") if table else reference
        try:
            named = video_id(title.key())
        except DataError as error:
            raise title.named(error) from None
    if named is None:
        image.need("file_name").fail("a name that says of which video the image is (VIDEO_000123.jpg)")
    rate = (table.get("fps", "frame_rate") if table else None) or image.get("fps", "frame_rate")
    return AnnotatedVideo(named, [], extent, rate.positive() if rate else None, first_frame=None), frame


def _category(annotation: Json, categories: dict[str, Json]) -> tuple[str, ...]:
    number = annotation.get("category_id")
    if number is None:
        return ()
    category = categories.get(number.key())
    if category is None:
        number.fail("the id of a category in $.categories")
    return (clean_name(category.need("name").text()),)


def _person(annotation: Json) -> str | None:
    found = annotation.get(*_PERSON_KEYS)
    attributes = annotation.get("attributes")
    if found is None and attributes is not None and isinstance(attributes.value, dict):
        found = attributes.get(*_PERSON_KEYS)
    return None if found is None else found.key()


def _attributes(node: Json | None, name: str = "attributes") -> Iterator[tuple[str, str]]:
    """Actions of `attributes`, a list of names or an object of true, a name, or a list of names."""
    if node is None:
        return
    if isinstance(node.value, list):
        for item in node.items():
            yield from attribute_actions(name, item.text())
        return
    for key, value in node.entries():
        if isinstance(value.value, list):
            yield from _attributes(value, key)
        elif isinstance(value.value, str | bool):
            yield from attribute_actions(key, value.value)
