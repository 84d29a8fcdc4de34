"""Label Studio's JSON export of video tasks: `videorectangle` results, and `timelinelabels`, whose actions
everyone in their frames does.

Boxes are in percent of the frame, frames count from 1, and a box moves linearly between the entries of its
`sequence`. An entry shows its box at its own frame; `enabled` says whether it is there after that frame, too.
See https://labelstud.io/tags/videorectangle.
"""

from __future__ import annotations

from collections import defaultdict

from vmae_det.dataset_tools.importers.actions import Identities, attribute_actions, clean_name
from vmae_det.dataset_tools.importers.formats import IMPORTER_REGISTRY, Importer, Source
from vmae_det.dataset_tools.importers.json_tree import Json
from vmae_det.dataset_tools.importers.names import Origins, video_id
from vmae_det.dataset_tools.importers.tracks import (
    PERCENT,
    AnnotatedVideo,
    Point,
    Range,
    Track,
    ordered_points,
)
from vmae_det.utils.errors import DataError

_CLASSES = ("labels", "videorectanglelabels", "rectanglelabels")
_SIDES = ("x", "y", "width", "height")


@IMPORTER_REGISTRY.register_as("labelstudio")
class LabelStudioImporter(Importer):
    """Reads Label Studio's JSON."""

    def recognises(self, source: Source) -> bool:
        """Whether it is a list of tasks, or one."""
        root = source.json.value if not source.is_xml else None
        task = root[0] if isinstance(root, list) and root else root
        return isinstance(task, dict) and "data" in task and ("annotations" in task or "completions" in task)

    def read(self, source: Source) -> list[AnnotatedVideo]:
        """One video for each task with annotations; of several annotations the first not cancelled."""
        root = source.json
        videos = []
        origins = Origins()
        for task in root.items() if isinstance(root.value, list) else [root]:
            done = task.get("annotations", "completions")
            kept = [entry for entry in done.items() if not _cancelled(entry)] if done else []
            if not kept:
                continue
            video = _video(kept[0].need("result").items(), _name(task.need("data"), origins))
            video.left_out["further annotations of a task"] += len(kept) - 1
            videos.append(video)
        return videos


def _cancelled(entry: Json) -> bool:
    flag = entry.get("was_cancelled")
    return flag is not None and flag.flag()


def _name(data: Json, origins: Origins) -> str:
    """The video's id: under `video`, else the first text."""
    node = data.get("video", "video_url")
    if node is None:
        node = next((value for _, value in data.entries() if isinstance(value.value, str)), None)
    if node is None:
        data.fail("an object with the video's address under 'video'")
    text = node.text()
    try:
        name = video_id(text)
        if "/upload/" not in text:  # each upload of a file has an address of its own
            origins.add(name, text if "?d=" in text else text.partition("?")[0])
        return name
    except DataError as error:
        raise node.named(error) from None


def _video(results: list[Json], name: str) -> AnnotatedVideo:
    video = AnnotatedVideo(name, extent=PERCENT, first_frame=1)
    identities = _identities(results)
    video.remarks = identities.remarks()
    said, persons = _per_region(results, identities, video)
    for result in results:
        kind = result.need("type").text()
        if _has(result, "ranges"):
            video.ranges += _ranges(result, result.need("value"))
            continue
        if not _has(result, "sequence"):
            video.left_out["shapes other than boxes"] += kind in ("videopolygonlabels", "brushlabels")
            continue
        value, key = result.need("value"), _region_of(result)
        _read_length(value, video)
        labels = tuple(
            clean_name(item.text())
            for field in _CLASSES
            for item in (value.get(field).items() if value.get(field) else ())
        )
        points = _points(value.need("sequence"), labels, said.get(key, ()), video)
        if points:
            video.tracks.append(Track(persons.get(key, key), points))
    return video


def _ranges(result: Json, value: Json) -> list[Range]:
    title = result.get("from_name")
    name = title.text() if title else ""
    labels = value.get("timelinelabels", "labels", "choices")
    pairs = tuple(
        pair for item in (labels.items() if labels else ()) for pair in attribute_actions(name, item.text())
    )
    return [
        Range(item.need("start").whole(), item.need("end").whole(), pairs)
        for item in value.need("ranges").items()
    ]


def _identities(results: list[Json]) -> Identities:
    identities = Identities()
    for result in results:
        value, title = result.get("value"), result.get("from_name")
        if value is None or title is None or not isinstance(value.value, dict):
            continue
        number, text, choices = value.get("number"), value.get("text"), value.get("choices")
        if number is not None:
            identities.add(title.text(), [str(number.value)])
        for node in (text, choices):
            if node is not None and isinstance(node.value, list):
                identities.add(title.text(), map(str, node.value), several=len(node.value) > 1)
    return identities


def _per_region(
    results: list[Json], identities: Identities, video: AnnotatedVideo
) -> tuple[dict[str | None, tuple[tuple[str, str], ...]], dict[str | None, str]]:
    """What choices, texts and numbers say of a region: actions, and the person's id, by the region's id."""
    said: dict[str | None, tuple[tuple[str, str], ...]] = defaultdict(tuple)
    persons: dict[str | None, str] = {}
    regions = {_region_of(result) for result in results if _has(result, "sequence")}
    for result in results:
        value, title = result.get("value"), result.get("from_name")
        if value is None or not isinstance(value.value, dict) or _has(result, "ranges"):
            continue
        key, name = _region_of(result), title.text() if title else ""
        text, choices, taxonomy = (value.get(kind) for kind in ("text", "choices", "taxonomy"))
        if key is None or key not in regions:
            video.left_out["choices and texts on a whole video"] += bool(text or choices or taxonomy)
            continue
        if name in identities:
            number, text = value.get("number"), text or choices
            if number is not None:
                persons[key] = str(number.whole())
            elif text is not None and isinstance(text.value, list) and text.items():
                persons[key] = text.items()[0].key()
        else:
            video.left_out["texts on boxes"] += bool(text)
        chosen = choices.items() if choices else []
        chosen += [path.items()[-1] for path in (taxonomy.items() if taxonomy else ()) if path.items()]
        for item in chosen:
            said[key] += attribute_actions(name, item.text(), identities)
    return said, persons


def _has(result: Json, key: str) -> bool:
    value = result.get("value")
    return value is not None and isinstance(value.value, dict) and key in value.value


def _region_of(result: Json) -> str | None:
    region = result.get("id")
    return region.key() if region else None


def _read_length(value: Json, video: AnnotatedVideo) -> None:
    count, duration = value.get("framesCount"), value.get("duration")
    if count is not None and count.whole() > 0:
        video.expected_frames = video.last_frame = count.whole()
        if duration is not None and duration.number() > 0:
            video.rate = count.whole() / duration.positive()


def _points(
    sequence: Json,
    labels: tuple[str, ...],
    attributes: tuple[tuple[str, str], ...],
    video: AnnotatedVideo,
) -> list[Point]:
    entries = sequence.items()
    # An export with interpolated frames holds each frame, and where one is missing nobody is to be seen.
    every_frame = any(entry.get("auto") is not None for entry in entries)
    points = []
    for entry in entries:
        frame = entry.need("frame").whole()
        left, top, width, height = (entry.need(side).number() for side in _SIDES)
        box: tuple[float, float, float, float] | None = (left, top, left + width, top + height)
        rotation, enabled = entry.get("rotation"), entry.get("enabled")
        goes_on = enabled is None or enabled.flag()
        if rotation is not None and rotation.number() % 360:
            video.left_out["rotated boxes"] += 1
            box = None
        points.append(Point(frame, box, labels, attributes, goes_on and box is not None and not every_frame))
    return ordered_points(points, video.left_out)
