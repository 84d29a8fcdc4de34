"""CVAT's XML 1.1, "for video" (tracks) and "for images" (images with boxes).

See https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/ and the page on its XML format.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmae_det.dataset_tools.importers.actions import Identities, attribute_actions, clean_name
from vmae_det.dataset_tools.importers.formats import IMPORTER_REGISTRY, Importer, Source
from vmae_det.dataset_tools.importers.names import Origins, frame_of_image, video_id
from vmae_det.dataset_tools.importers.tracks import AnnotatedVideo, Box, Point, Track, ordered_points
from vmae_det.dataset_tools.importers.xml_tree import Element, read_xml
from vmae_det.utils.errors import DataError, shown

_TRUE = ("1", "true", "True")
_OTHER_SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


@dataclass
class _Task:
    """What <meta> says of a task: video (None: a set of images), frame size, last frame, each n-th frame."""

    video: str | None
    extent: tuple[float, float] | None
    start: int
    stop: int | None
    step: int


@IMPORTER_REGISTRY.register_as("cvat")
class CvatImporter(Importer):
    """Reads CVAT's XML."""

    def recognises(self, source: Source) -> bool:
        """Whether it is XML at all: no other format is."""
        return source.is_xml

    def read(self, source: Source) -> list[AnnotatedVideo]:
        """One video for each task with tracks; images are gathered by the video in their names."""
        tasks: dict[str, _Task] = {}
        identities = _identities(source)
        videos: dict[tuple[str, str | None], AnnotatedVideo] = {}
        origins = Origins()
        elements = read_xml(source.path)
        root = next(elements, None)
        if root is None or root.tag != "annotations":
            raise DataError("expected CVAT's XML, whose root is <annotations>", source.path)
        for element in elements:
            if element.tag == "meta":
                tasks = _tasks(element)
            elif element.tag == "track":
                _add_track(element, _task_of(element, tasks), videos, identities)
            elif element.tag == "image":
                _add_image(element, _task_of(element, tasks), videos, identities, origins)
        for video in videos.values():
            video.remarks = identities.remarks()
        return list(videos.values())


def _tasks(meta: Element) -> dict[str, _Task]:
    """Tasks by id: that of a task's or a job's export, or those of a project's."""
    project = meta.find("project", "tasks")
    found = project.all("task") if project else [*meta.all("task"), *meta.all("job")]
    tasks: dict[str, _Task] = {}
    for task in found:
        number = task.find("id")
        key = number.text if number else ""
        if key in tasks:
            task.fail(f"the task id {shown(key)} occurs twice")
        tasks[key] = _task(task, meta)
    return tasks


def _identities(source: Source) -> Identities:
    """By the types and values that <meta> declares of attributes, and the values that shapes have."""
    identities = Identities()

    def look(element: Element) -> None:
        if element.tag == "attribute" and "name" in element.attributes:
            identities.add(element.attributes["name"], [element.text], element.text in ("true", "false"))
        elif element.tag == "attribute" and (name := element.find("name")):
            values, kind = element.find("values"), element.find("input_type")
            is_checkbox = kind is not None and kind.text == "checkbox"
            declared = values.text.split("\n") if values and kind and kind.text in ("select", "radio") else []
            identities.add(name.text, declared, several=is_checkbox)
        for child in element.children:
            look(child)

    for element in read_xml(source.path):
        look(element)
    return identities


def _task(task: Element, meta: Element) -> _Task:
    """Of a task or a job; what a job's export does not say in it stands beside it."""
    size, step = task.find("original_size") or meta.find("original_size"), 1
    source = meta.find("source")
    extent = None
    if size:
        sides = [size.find(side) for side in ("width", "height")]
        if any(side is None or side.whole_text() == 0 for side in sides):
            size.fail("expected <width> and <height> in pixels")
        extent = (float(sides[0].whole_text()), float(sides[1].whole_text()))
    rule = task.find("frame_filter")
    if rule and rule.text:
        number = rule.text.removeprefix("step=").strip()
        if not number.isascii() or not number.isdigit() or int(number[:9]) < 1:
            rule.fail(f"expected step=N, got '{rule.text[:40]}'")
        step = int(number[:9])
    start, stop = task.find("start_frame"), task.find("stop_frame")
    name = task.find("source") or source
    if name is None and (mode := task.find("mode")) and mode.text == "interpolation":
        name = task.find("name")
    try:
        video = video_id(name.text) if name is not None and name.text else None
    except DataError as error:
        raise name.named(error) from None
    return _Task(
        video,
        extent,
        start.whole_text() if start and start.text else 0,
        stop.whole_text() if stop and stop.text else None,
        step,
    )


def _task_of(element: Element, tasks: dict[str, _Task]) -> _Task:
    number = element.attributes.get("task_id", "")
    if number in tasks or len(tasks) == 1:
        return tasks.get(number) or next(iter(tasks.values()))
    if element.tag == "track" and len(tasks) > 1:
        element.fail(f"expected the task_id= of one of the tasks in <meta>, got {shown(number)}")
    return _Task(None, None, 0, None, 1)


def _add_track(
    element: Element,
    task: _Task,
    videos: dict[tuple[str, str | None], AnnotatedVideo],
    identities: Identities,
) -> None:
    video = videos.setdefault(
        ("tracks", task.video),
        AnnotatedVideo(
            task.video,
            extent=task.extent,
            last_frame=task.stop,
            frame_step=task.step,
            step_from=task.start % task.step,
        ),
    )
    label = (clean_name(element.attribute("label")),)
    points = []
    for shape in element.children:
        if shape.tag != "box":
            video.left_out["shapes other than boxes"] += shape.tag in _OTHER_SHAPES
            continue
        attributes, _ = _attributes(shape, identities)
        gone = shape.attributes.get("outside") in _TRUE
        box = None if gone else _box(shape, video)
        points.append(Point(shape.whole("frame"), box, label, attributes, goes_on=box is not None))
    if points:
        video.tracks.append(Track(element.attributes.get("id"), ordered_points(points, video.left_out)))


def _add_image(
    element: Element,
    task: _Task,
    videos: dict[tuple[str, str | None], AnnotatedVideo],
    identities: Identities,
    origins: Origins,
) -> None:
    try:
        name, frame = frame_of_image(element.attribute("name"))
        origins.add(name or task.video, element.attribute("name"), frame)
    except DataError as error:
        raise element.named(error) from None
    from_video = name is None and task.video is not None
    name = name or task.video
    extent = (element.number("width"), element.number("height"))
    if min(extent) < 1:
        element.fail("expected width= and height= in pixels")
    boxes = element.all("box")
    kind = f"images {extent}"
    video = videos.setdefault(
        (kind, name), AnnotatedVideo(name, extent=extent, first_frame=0 if from_video else None)
    )
    video.left_out["shapes other than boxes"] += sum(child.tag in _OTHER_SHAPES for child in element.children)
    tags: tuple[tuple[str, str], ...] = ()  # of the image, so of everyone in it
    for tag in element.all("tag"):
        tags += attribute_actions("tag", tag.attribute("label")) + _attributes(tag, identities)[0]
    video.left_out["tags of images without a box"] += len(tags) if not boxes else 0
    for shape in boxes:
        attributes, person = _attributes(shape, identities)
        attributes = tuple(dict.fromkeys(attributes + tags))
        label = (clean_name(shape.attribute("label")),)
        box = _box(shape, video)
        if box is not None:
            video.tracks.append(Track(person, [Point(frame, box, label, attributes)]))


def _attributes(shape: Element, identities: Identities) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """(attribute, action) pairs, and the person's id where an attribute gives one."""
    found: tuple[tuple[str, str], ...] = ()
    person = None
    for attribute in shape.all("attribute"):
        name = attribute.attribute("name")
        if name in identities and attribute.text:
            person = attribute.text
        found += attribute_actions(name, attribute.text, identities)
    return found, person


def _box(shape: Element, video: AnnotatedVideo) -> Box | None:
    box = tuple(shape.number(side) for side in ("xtl", "ytl", "xbr", "ybr"))
    if "rotation" in shape.attributes and shape.number("rotation") % 360:
        video.left_out["rotated boxes"] += 1
        return None
    return box
