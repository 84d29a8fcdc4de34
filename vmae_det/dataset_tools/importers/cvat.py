"""Import CVAT XML 1.1, "for video" (tracks) and "for images" (images with boxes).

See https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/ and the page on its XML format.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmae_det.dataset_tools.importers.actions import IdentityAttributes, attribute_actions, clean_name
from vmae_det.dataset_tools.importers.base import IMPORTER_REGISTRY, AnnotationFile, Importer
from vmae_det.dataset_tools.importers.documents import XmlElement, read_xml
from vmae_det.dataset_tools.importers.file_names import UniqueFiles, parse_image_name, video_id
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo, Box, Track, TrackPoint, merge_points
from vmae_det.utils.errors import DataError, quoted

_TRUE = ("1", "true", "True")
_OTHER_SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


@dataclass
class _Task:
    """A task in <meta>; `video` is None for a set of images.

    `start` and `stop` are the first and last frame, of which every `step`-th is annotated.
    """

    video: str | None
    frame_size: tuple[float, float] | None
    start: int
    stop: int | None
    step: int


@IMPORTER_REGISTRY.register_as("cvat")
class CvatImporter(Importer):
    """Reads CVAT XML."""

    def recognizes(self, file: AnnotationFile) -> bool:
        """Return whether the file is XML. No other format is."""
        return file.is_xml

    def read(self, file: AnnotationFile) -> list[AnnotatedVideo]:
        """Return one video for each task with tracks. Images are grouped by the video in their names."""
        tasks: dict[str, _Task] = {}
        identities = _identities(file)
        videos: dict[tuple[str, str | None], AnnotatedVideo] = {}
        files = UniqueFiles()
        elements = read_xml(file.path)
        root = next(elements, None)
        if root is None or root.tag != "annotations":
            raise DataError("expected CVAT XML with the root element <annotations>", file.path)
        for element in elements:
            if element.tag == "meta":
                tasks = _read_tasks(element)
            elif element.tag == "track":
                _add_track(element, _task_of(element, tasks), videos, identities)
            elif element.tag == "image":
                _add_image(element, _task_of(element, tasks), videos, identities, files)
        for video in videos.values():
            video.notes = identities.notes()
        return list(videos.values())


def _read_tasks(meta: XmlElement) -> dict[str, _Task]:
    """Return tasks by id: the task or job of an export, or the tasks of a project's export."""
    project = meta.find("project", "tasks")
    found = project.all("task") if project else [*meta.all("task"), *meta.all("job")]
    tasks: dict[str, _Task] = {}
    for task in found:
        number = task.find("id")
        key = number.text if number else ""
        if key in tasks:
            task.fail(f"duplicate task id {quoted(key)}")
        tasks[key] = _read_task(task, meta)
    return tasks


def _identities(file: AnnotationFile) -> IdentityAttributes:
    """Collect attributes: types and values declared in <meta>, and the values of shapes."""
    identities = IdentityAttributes()

    def visit(element: XmlElement) -> None:
        if element.tag == "attribute" and "name" in element.attributes:
            identities.add(element.attributes["name"], [element.text], element.text in ("true", "false"))
        elif element.tag == "attribute" and (name := element.find("name")):
            values, kind = element.find("values"), element.find("input_type")
            is_checkbox = kind is not None and kind.text == "checkbox"
            declared = values.text.split("\n") if values and kind and kind.text in ("select", "radio") else []
            identities.add(name.text, declared, multi_valued=is_checkbox)
        for child in element.children:
            visit(child)

    for element in read_xml(file.path):
        visit(element)
    return identities


def _read_task(task: XmlElement, meta: XmlElement) -> _Task:
    """Read a task or a job. `meta` contains the fields that the export of a job lacks."""
    size, step = task.find("original_size") or meta.find("original_size"), 1
    source = meta.find("source")
    frame_size = None
    if size:
        sides = [size.find(side) for side in ("width", "height")]
        if any(side is None or side.integer_text() == 0 for side in sides):
            size.fail("expected <width> and <height> in pixels")
        frame_size = (float(sides[0].integer_text()), float(sides[1].integer_text()))
    frame_filter = task.find("frame_filter")
    if frame_filter and frame_filter.text:
        number = frame_filter.text.removeprefix("step=").strip()
        if not number.isascii() or not number.isdigit() or int(number[:9]) < 1:
            frame_filter.fail(f"expected step=N, got '{frame_filter.text[:40]}'")
        step = int(number[:9])
    start, stop = task.find("start_frame"), task.find("stop_frame")
    name = task.find("source") or source
    if name is None and (mode := task.find("mode")) and mode.text == "interpolation":
        name = task.find("name")
    try:
        video = video_id(name.text) if name is not None and name.text else None
    except DataError as error:
        raise name.located(error) from None
    return _Task(
        video,
        frame_size,
        start.integer_text() if start and start.text else 0,
        stop.integer_text() if stop and stop.text else None,
        step,
    )


def _task_of(element: XmlElement, tasks: dict[str, _Task]) -> _Task:
    number = element.attributes.get("task_id", "")
    if number in tasks or len(tasks) == 1:
        return tasks.get(number) or next(iter(tasks.values()))
    if element.tag == "track" and len(tasks) > 1:
        element.fail(f"task_id: expected the id of a task in <meta>, got {quoted(number)}")
    return _Task(None, None, 0, None, 1)


def _add_track(
    element: XmlElement,
    task: _Task,
    videos: dict[tuple[str, str | None], AnnotatedVideo],
    identities: IdentityAttributes,
) -> None:
    video = videos.setdefault(
        ("tracks", task.video),
        AnnotatedVideo(
            task.video,
            frame_size=task.frame_size,
            last_frame=task.stop,
            frame_step=task.step,
            step_offset=task.start % task.step,
        ),
    )
    label = (clean_name(element.attribute("label")),)
    points = []
    for shape in element.children:
        if shape.tag != "box":
            video.skipped["shapes other than boxes"] += shape.tag in _OTHER_SHAPES
            continue
        attributes, _ = _attributes(shape, identities)
        is_outside = shape.attributes.get("outside") in _TRUE
        box = None if is_outside else _box(shape, video)
        points.append(TrackPoint(shape.integer("frame"), box, label, attributes, continues=box is not None))
    if points:
        video.tracks.append(Track(element.attributes.get("id"), merge_points(points, video.skipped)))


def _add_image(
    element: XmlElement,
    task: _Task,
    videos: dict[tuple[str, str | None], AnnotatedVideo],
    identities: IdentityAttributes,
    files: UniqueFiles,
) -> None:
    try:
        name, frame = parse_image_name(element.attribute("name"))
        files.add(name or task.video, element.attribute("name"), frame)
    except DataError as error:
        raise element.located(error) from None
    is_from_video = name is None and task.video is not None
    name = name or task.video
    frame_size = (element.number("width"), element.number("height"))
    if min(frame_size) < 1:
        element.fail("expected width= and height= in pixels")
    boxes = element.all("box")
    group = f"images {frame_size}"
    video = videos.setdefault(
        (group, name),
        AnnotatedVideo(name, frame_size=frame_size, first_frame=0 if is_from_video else None),
    )
    video.skipped["shapes other than boxes"] += sum(child.tag in _OTHER_SHAPES for child in element.children)
    tags: tuple[tuple[str, str], ...] = ()  # tags of the image are actions of everyone in it
    for tag in element.all("tag"):
        tags += attribute_actions("tag", tag.attribute("label")) + _attributes(tag, identities)[0]
    video.skipped["tags of images without a box"] += len(tags) if not boxes else 0
    for shape in boxes:
        attributes, person = _attributes(shape, identities)
        attributes = tuple(dict.fromkeys(attributes + tags))
        label = (clean_name(shape.attribute("label")),)
        box = _box(shape, video)
        if box is not None:
            video.tracks.append(Track(person, [TrackPoint(frame, box, label, attributes)]))


def _attributes(
    shape: XmlElement, identities: IdentityAttributes
) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """Return (attribute, action) pairs, and the person's id if an attribute identifies the person."""
    found: tuple[tuple[str, str], ...] = ()
    person = None
    for attribute in shape.all("attribute"):
        name = attribute.attribute("name")
        if name in identities and attribute.text:
            person = attribute.text
        found += attribute_actions(name, attribute.text, identities)
    return found, person


def _box(shape: XmlElement, video: AnnotatedVideo) -> Box | None:
    box = tuple(shape.number(side) for side in ("xtl", "ytl", "xbr", "ybr"))
    if "rotation" in shape.attributes and shape.number("rotation") % 360:
        video.skipped["rotated boxes"] += 1
        return None
    return box
