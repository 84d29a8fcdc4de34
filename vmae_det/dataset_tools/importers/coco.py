"""Import COCO JSON: images that are frames of videos, and boxes with categories.

See https://cocodataset.org/#format-data. The `videos` table is optional. `videos`, `video_id`, `frame_id` and
`track_id` (or `instance_id`) are those of tracking datasets in this format (CocoVID, TAO).
"""

from __future__ import annotations

from collections.abc import Iterator

from vmae_det.dataset_tools.importers.actions import IdentityAttributes, attribute_actions, clean_name
from vmae_det.dataset_tools.importers.base import IMPORTER_REGISTRY, AnnotationFile, Importer
from vmae_det.dataset_tools.importers.documents import JsonValue
from vmae_det.dataset_tools.importers.file_names import UniqueFiles, parse_image_name, video_id
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo, Track, TrackPoint, merge_points
from vmae_det.utils.errors import DataError

_PERSON_KEYS = ("track_id", "instance_id", "person_id")
_ENTRY_NAMES = {"images": "image", "categories": "category", "videos": "video"}


@IMPORTER_REGISTRY.register_as("coco")
class CocoImporter(Importer):
    """Reads COCO annotation files."""

    def recognizes(self, file: AnnotationFile) -> bool:
        """Return whether the file has COCO's tables."""
        root = file.json.value if not file.is_xml else None
        return isinstance(root, dict) and {"images", "annotations"} <= root.keys()

    def read(self, file: AnnotationFile) -> list[AnnotatedVideo]:
        """Return one video for each video id and frame size.

        Annotations of one image that have the same track, or the same box, are actions of one person.
        """
        root = file.json
        categories, video_table = _by_id(root, "categories"), _by_id(root, "videos")
        files = UniqueFiles()
        images = {
            key: _read_image(image, video_table, files) for key, image in _by_id(root, "images").items()
        }
        identities = _identities(root)
        videos: dict[tuple[str | None, tuple[float, float] | None], AnnotatedVideo] = {}
        points: dict[tuple[str | None, tuple[float, float] | None], dict[object, list[TrackPoint]]] = {}
        for annotation in root.require("annotations").items():
            reference = annotation.require("image_id")
            image = images.get(reference.identifier())
            if image is None:
                reference.fail("the id of an image in $.images")
            video, frame = image
            key = (video.name, video.frame_size)
            videos.setdefault(key, video)
            if (bbox := annotation.get("bbox")) is None or bbox.value == []:
                videos[key].skipped["annotations without a box"] += 1
                continue
            if (crowd := annotation.get("iscrowd")) is not None and crowd.value:
                videos[key].skipped["boxes of crowds (iscrowd)"] += 1
                continue
            if _rotation(annotation) % 360:
                videos[key].skipped["rotated boxes"] += 1
                continue
            x, y, width, height = bbox.numbers(4, "x, y, width, height")
            box = (x, y, x + width, y + height)
            point = TrackPoint(
                frame,
                box,
                _category(annotation, categories),
                tuple(_attributes(annotation.get("attributes"), identities)),
            )
            person = _person(annotation, identities)
            track_key = person if person is not None else (frame, box)
            points.setdefault(key, {}).setdefault(track_key, []).append(point)
        for key, video in videos.items():
            video.notes = identities.notes()
            video.tracks = [
                Track(track_key if isinstance(track_key, str) else None, merge_points(found, video.skipped))
                for track_key, found in points.get(key, {}).items()
            ]
        return list(videos.values())


def _by_id(root: JsonValue, name: str) -> dict[str, JsonValue]:
    """Return the entries of a table by id; DataError if two different entries have the same id."""
    table = root.require(name) if name == "images" else root.get(name)
    found: dict[str, JsonValue] = {}
    for entry in table.items() if table else ():
        number = entry.require("id") if name == "images" else entry.get("id")
        if number is None:
            continue
        first = found.setdefault(number.identifier(), entry)
        if first.value != entry.value:
            problem = (
                f"duplicate {_ENTRY_NAMES[name]} id {number.identifier()}, first used at {first.location}"
            )
            raise DataError(f"{number.location}: {problem}; were two files joined?", root.path)
    return found


def _identities(root: JsonValue) -> IdentityAttributes:
    identities = IdentityAttributes()
    for annotation in root.require("annotations").items():
        attributes = annotation.get("attributes")
        for key, value in attributes.entries() if attributes and isinstance(attributes.value, dict) else ():
            values = value.value if isinstance(value.value, list) else [value.value]
            identities.add(key, map(str, values), multi_valued=isinstance(value.value, list | bool))
    return identities


def _rotation(annotation: JsonValue) -> float:
    """Return the rotation of a box in degrees. CVAT writes it as an attribute."""
    attributes = annotation.get("attributes")
    has_attributes = attributes is not None and isinstance(attributes.value, dict)
    found = annotation.get("rotation") or (attributes.get("rotation") if has_attributes else None)
    if found is None or found.value == "":
        return 0.0
    try:
        return float(found.value) if isinstance(found.value, str) else found.number()
    except ValueError:
        return found.number()


def _size(entry: JsonValue) -> tuple[float, float] | None:
    size = (entry.get("width"), entry.get("height"))
    known = all(side is not None and side.number() > 0 for side in size)
    return (size[0].positive(), size[1].positive()) if known else None


def _read_image(
    image: JsonValue, video_table: dict[str, JsonValue], files: UniqueFiles
) -> tuple[AnnotatedVideo, int]:
    """Return the image's video, without tracks, and its frame number."""
    reference = image.get("video_id", "video")
    entry = video_table.get(reference.identifier()) if reference else None
    frame_size = _size(image) or (_size(entry) if entry else None)
    if reference and video_table and entry is None:
        reference.fail("the id of a video in $.videos")
    number = image.get("frame_id", "frame_index", "frame_number", "frame")
    name, frame = None, number.integer() if number else None
    if number is None or reference is None:
        file_name = image.require("file_name")
        try:
            name, frame_in_name = parse_image_name(file_name.text())
            if reference is None:
                files.add(name, file_name.text(), frame_in_name)
        except DataError as error:
            raise file_name.located(error) from None
        frame = frame_in_name if frame is None else frame
    if reference is not None:
        title = entry.require("name", "file_name") if entry else reference
        try:
            name = video_id(title.identifier())
            files.add(name, title.identifier())
        except DataError as error:
            raise title.located(error) from None
    rate = (entry.get("fps", "frame_rate") if entry else None) or image.get("fps", "frame_rate")
    image_name = image.get("file_name")
    video = AnnotatedVideo(name, [], frame_size, rate.positive() if rate else None, first_frame=None)
    video.image_name = image_name.text() if image_name else None
    return video, frame


def _category(annotation: JsonValue, categories: dict[str, JsonValue]) -> tuple[str, ...]:
    number = annotation.get("category_id")
    if number is None:
        return ()
    category = categories.get(number.identifier())
    if category is None:
        number.fail("the id of a category in $.categories")
    return (clean_name(category.require("name").text()),)


def _person(annotation: JsonValue, identities: IdentityAttributes) -> str | None:
    found = annotation.get(*_PERSON_KEYS)
    attributes = annotation.get("attributes")
    if found is None and attributes is not None and isinstance(attributes.value, dict):
        found = next((value for key, value in attributes.entries() if key in identities), None)
    return None if found is None or found.value is None else found.identifier()


def _attributes(
    node: JsonValue | None, identities: IdentityAttributes, name: str = "attributes"
) -> Iterator[tuple[str, str]]:
    """Yield (attribute, action) pairs of `attributes`: a list of names, or an object of flags and names."""
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
