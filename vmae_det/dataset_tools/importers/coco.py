"""COCO JSON: images that are frames of videos, boxes with categories, with or without a `videos` table.

See https://cocodataset.org/#format-data; `videos`, `video_id`, `frame_id` and `track_id` (or `instance_id`)
are those of the tracking datasets in this form (CocoVID, TAO).
"""

from __future__ import annotations

from collections.abc import Iterator

from vmae_det.dataset_tools.importers.actions import Identities, attribute_actions, clean_name
from vmae_det.dataset_tools.importers.formats import IMPORTER_REGISTRY, Importer, Source
from vmae_det.dataset_tools.importers.json_tree import Json
from vmae_det.dataset_tools.importers.names import Origins, frame_of_image, video_id
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo, Point, Track, ordered_points
from vmae_det.utils.errors import DataError

_PERSON_KEYS = ("track_id", "instance_id", "person_id")
_KINDS = {"images": "image", "categories": "category", "videos": "video"}


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
        categories, tables = _by_id(root, "categories"), _by_id(root, "videos")
        origins = Origins()
        images = {key: _frame_of(image, tables, origins) for key, image in _by_id(root, "images").items()}
        identities = _identities(root)
        videos: dict[tuple[str | None, tuple[float, float] | None], AnnotatedVideo] = {}
        points: dict[tuple[str | None, tuple[float, float] | None], dict[object, list[Point]]] = {}
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
            if _rotation(annotation) % 360:
                videos[key].left_out["rotated boxes"] += 1
                continue
            x, y, width, height = bbox.numbers(4, "x, y, width, height")
            box = (x, y, x + width, y + height)
            point = Point(
                frame,
                box,
                _category(annotation, categories),
                tuple(_attributes(annotation.get("attributes"), identities)),
            )
            person = _person(annotation, identities)
            who = person if person is not None else (frame, box)
            points.setdefault(key, {}).setdefault(who, []).append(point)
        for key, video in videos.items():
            video.remarks = identities.remarks()
            video.tracks = [
                Track(who if isinstance(who, str) else None, ordered_points(found, video.left_out))
                for who, found in points.get(key, {}).items()
            ]
        return list(videos.values())


def _by_id(root: Json, name: str) -> dict[str, Json]:
    """The entries of a table by their ids, of which each must be one entry's alone."""
    table = root.need(name) if name == "images" else root.get(name)
    found: dict[str, Json] = {}
    for entry in table.items() if table else ():
        number = entry.need("id") if name == "images" else entry.get("id")
        if number is None:
            continue
        first = found.setdefault(number.key(), entry)
        if first.value != entry.value:
            problem = f"the {_KINDS[name]} id {number.key()} occurs twice, first at {first.place}"
            raise DataError(f"{number.place}: {problem}; were two files joined?", root.path)
    return found


def _identities(root: Json) -> Identities:
    identities = Identities()
    for annotation in root.need("annotations").items():
        attributes = annotation.get("attributes")
        for key, value in attributes.entries() if attributes and isinstance(attributes.value, dict) else ():
            values = value.value if isinstance(value.value, list) else [value.value]
            identities.add(key, map(str, values), several=isinstance(value.value, list | bool))
    return identities


def _rotation(annotation: Json) -> float:
    """Degrees by which a box is turned, as CVAT writes it among the attributes."""
    attributes = annotation.get("attributes")
    inside = attributes is not None and isinstance(attributes.value, dict)
    found = annotation.get("rotation") or (attributes.get("rotation") if inside else None)
    if found is None or found.value == "":
        return 0.0
    try:
        return float(found.value) if isinstance(found.value, str) else found.number()
    except ValueError:
        return found.number()


def _size(entry: Json) -> tuple[float, float] | None:
    size = (entry.get("width"), entry.get("height"))
    known = all(side is not None and side.number() > 0 for side in size)
    return (size[0].positive(), size[1].positive()) if known else None


def _frame_of(image: Json, tables: dict[str, Json], origins: Origins) -> tuple[AnnotatedVideo, int]:
    """An empty AnnotatedVideo that says what the image does, and the frame's number."""
    reference = image.get("video_id", "video")
    table = tables.get(reference.key()) if reference else None
    extent = _size(image) or (_size(table) if table else None)
    if reference and tables and table is None:
        reference.fail("the id of a video in $.videos")
    number = image.get("frame_id", "frame_index", "frame_number", "frame")
    named, frame = None, number.whole() if number else None
    if number is None or reference is None:
        name = image.need("file_name")
        try:
            named, from_name = frame_of_image(name.text())
            if reference is None:
                origins.add(named, name.text(), from_name)
        except DataError as error:
            raise name.named(error) from None
        frame = from_name if frame is None else frame
    if reference is not None:
        title = table.need("name", "file_name") if table else reference
        try:
            named = video_id(title.key())
            origins.add(named, title.key())
        except DataError as error:
            raise title.named(error) from None
    rate = (table.get("fps", "frame_rate") if table else None) or image.get("fps", "frame_rate")
    picture = image.get("file_name")
    video = AnnotatedVideo(named, [], extent, rate.positive() if rate else None, first_frame=None)
    video.picture = picture.text() if picture else None
    return video, frame


def _category(annotation: Json, categories: dict[str, Json]) -> tuple[str, ...]:
    number = annotation.get("category_id")
    if number is None:
        return ()
    category = categories.get(number.key())
    if category is None:
        number.fail("the id of a category in $.categories")
    return (clean_name(category.need("name").text()),)


def _person(annotation: Json, identities: Identities) -> str | None:
    found = annotation.get(*_PERSON_KEYS)
    attributes = annotation.get("attributes")
    if found is None and attributes is not None and isinstance(attributes.value, dict):
        found = next((value for key, value in attributes.entries() if key in identities), None)
    return None if found is None or found.value is None else found.key()


def _attributes(
    node: Json | None, identities: Identities, name: str = "attributes"
) -> Iterator[tuple[str, str]]:
    """Actions of `attributes`, a list of names or an object of true, a name, or a list of names."""
    if node is None:
        return
    if isinstance(node.value, list):
        for item in node.items():
            yield from attribute_actions(name, item.text(), identities)
        return
    for key, value in node.entries():
        if isinstance(value.value, list):
            yield from _attributes(value, identities, key)
        elif isinstance(value.value, str | bool):
            yield from attribute_actions(key, value.value, identities)
