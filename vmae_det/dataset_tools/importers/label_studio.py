"""Import Label Studio's JSON export of video tasks: `videorectangle` and `timelinelabels` results.

The actions of `timelinelabels` apply to everyone in their frames. Boxes are in percent of the frame, frames
count from 1, and a box moves linearly between the entries of its `sequence`. An entry shows its box at its
own frame; `enabled` states whether the box continues after that frame. See
https://labelstud.io/tags/videorectangle.
"""

from __future__ import annotations

from collections import defaultdict

from vmae_det.dataset_tools.importers.actions import IdentityAttributes, attribute_actions, clean_name
from vmae_det.dataset_tools.importers.base import IMPORTER_REGISTRY, AnnotationFile, Importer
from vmae_det.dataset_tools.importers.documents import JsonValue
from vmae_det.dataset_tools.importers.file_names import UniqueFiles, video_id
from vmae_det.dataset_tools.importers.tracks import (
    PERCENT,
    ActionSegment,
    AnnotatedVideo,
    Track,
    TrackPoint,
    merge_points,
)
from vmae_det.utils.errors import DataError

_LABEL_KEYS = ("labels", "videorectanglelabels", "rectanglelabels")
_SIDES = ("x", "y", "width", "height")


@IMPORTER_REGISTRY.register_as("labelstudio")
class LabelStudioImporter(Importer):
    """Reads Label Studio JSON."""

    def recognizes(self, file: AnnotationFile) -> bool:
        """Return whether the file is a list of tasks, or one task."""
        root = file.json.value if not file.is_xml else None
        task = root[0] if isinstance(root, list) and root else root
        return isinstance(task, dict) and "data" in task and ("annotations" in task or "completions" in task)

    def read(self, file: AnnotationFile) -> list[AnnotatedVideo]:
        """Return one video for each annotated task. The first annotation that is not canceled is used."""
        root = file.json
        videos = []
        files = UniqueFiles()
        for task in root.items() if isinstance(root.value, list) else [root]:
            annotations = task.get("annotations", "completions")
            kept = [entry for entry in annotations.items() if not _is_canceled(entry)] if annotations else []
            if not kept:
                continue
            video = _read_video(kept[0].require("result").items(), _video_name(task.require("data"), files))
            video.skipped["further annotations of a task"] += len(kept) - 1
            videos.append(video)
        return videos


def _is_canceled(entry: JsonValue) -> bool:
    flag = entry.get("was_cancelled")
    return flag is not None and flag.boolean()


def _video_name(data: JsonValue, files: UniqueFiles) -> str:
    """Return the video's id, from the key `video` or else the first string."""
    node = data.get("video", "video_url")
    if node is None:
        node = next((value for _, value in data.entries() if isinstance(value.value, str)), None)
    if node is None:
        data.fail("an object with the video's URL under 'video'")
    text = node.text()
    try:
        name = video_id(text)
        if "/upload/" not in text:  # each upload of a file has its own URL
            files.add(name, text if "?d=" in text else text.partition("?")[0])
        return name
    except DataError as error:
        raise node.located(error) from None


def _read_video(results: list[JsonValue], name: str) -> AnnotatedVideo:
    video = AnnotatedVideo(name, frame_size=PERCENT, first_frame=1)
    identities = _identities(results)
    video.notes = identities.notes()
    region_actions, persons = _read_regions(results, identities, video)
    for result in results:
        kind = result.require("type").text()
        if _has(result, "ranges"):
            video.segments += _read_segments(result, result.require("value"))
            continue
        if not _has(result, "sequence"):
            video.skipped["shapes other than boxes"] += kind in ("videopolygonlabels", "brushlabels")
            continue
        value, region = result.require("value"), _region_id(result)
        _read_length(value, video)
        labels = tuple(
            clean_name(item.text())
            for key in _LABEL_KEYS
            for item in (value.get(key).items() if value.get(key) else ())
        )
        points = _read_points(value.require("sequence"), labels, region_actions.get(region, ()), video)
        if points:
            video.tracks.append(Track(persons.get(region, region), points))
    return video


def _read_segments(result: JsonValue, value: JsonValue) -> list[ActionSegment]:
    title = result.get("from_name")
    name = title.text() if title else ""
    labels = value.get("timelinelabels", "labels", "choices")
    pairs = tuple(
        pair for item in (labels.items() if labels else ()) for pair in attribute_actions(name, item.text())
    )
    return [
        ActionSegment(item.require("start").integer(), item.require("end").integer(), pairs)
        for item in value.require("ranges").items()
    ]


def _identities(results: list[JsonValue]) -> IdentityAttributes:
    identities = IdentityAttributes()
    for result in results:
        value, title = result.get("value"), result.get("from_name")
        if value is None or title is None or not isinstance(value.value, dict):
            continue
        number, text, choices = value.get("number"), value.get("text"), value.get("choices")
        if number is not None:
            identities.add(title.text(), [str(number.value)])
        for node in (text, choices):
            if node is not None and isinstance(node.value, list):
                identities.add(title.text(), map(str, node.value), multi_valued=len(node.value) > 1)
    return identities


def _read_regions(
    results: list[JsonValue], identities: IdentityAttributes, video: AnnotatedVideo
) -> tuple[dict[str | None, tuple[tuple[str, str], ...]], dict[str | None, str]]:
    """Read choices, texts and numbers of regions.

    Returns:
        Region id to (attribute, action) pairs, and region id to the person's id.
    """
    actions: dict[str | None, tuple[tuple[str, str], ...]] = defaultdict(tuple)
    persons: dict[str | None, str] = {}
    regions = {_region_id(result) for result in results if _has(result, "sequence")}
    for result in results:
        value, title = result.get("value"), result.get("from_name")
        if value is None or not isinstance(value.value, dict) or _has(result, "ranges"):
            continue
        region, name = _region_id(result), title.text() if title else ""
        text, choices, taxonomy = (value.get(kind) for kind in ("text", "choices", "taxonomy"))
        if region is None or region not in regions:
            video.skipped["choices and texts of a whole video"] += bool(text or choices or taxonomy)
            continue
        if name in identities:
            number, text = value.get("number"), text or choices
            if number is not None:
                persons[region] = str(number.integer())
            elif text is not None and isinstance(text.value, list) and text.items():
                persons[region] = text.items()[0].identifier()
        else:
            video.skipped["texts of boxes"] += bool(text)
        chosen = choices.items() if choices else []
        chosen += [path.items()[-1] for path in (taxonomy.items() if taxonomy else ()) if path.items()]
        for item in chosen:
            actions[region] += attribute_actions(name, item.text(), identities)
    return actions, persons


def _has(result: JsonValue, key: str) -> bool:
    value = result.get("value")
    return value is not None and isinstance(value.value, dict) and key in value.value


def _region_id(result: JsonValue) -> str | None:
    region = result.get("id")
    return region.identifier() if region else None


def _read_length(value: JsonValue, video: AnnotatedVideo) -> None:
    count, duration = value.get("framesCount"), value.get("duration")
    if count is not None and count.integer() > 0:
        video.expected_frames = video.last_frame = count.integer()
        if duration is not None and duration.number() > 0:
            video.frame_rate = count.integer() / duration.positive()


def _read_points(
    sequence: JsonValue,
    labels: tuple[str, ...],
    attributes: tuple[tuple[str, str], ...],
    video: AnnotatedVideo,
) -> list[TrackPoint]:
    entries = sequence.items()
    # An export with interpolated frames has an entry for each frame. The box is not visible in missing
    # frames.
    every_frame = any(entry.get("auto") is not None for entry in entries)
    points = []
    for entry in entries:
        frame = entry.require("frame").integer()
        left, top, width, height = (entry.require(side).number() for side in _SIDES)
        box: tuple[float, float, float, float] | None = (left, top, left + width, top + height)
        rotation, enabled = entry.get("rotation"), entry.get("enabled")
        is_enabled = enabled is None or enabled.boolean()
        if rotation is not None and rotation.number() % 360:
            video.skipped["rotated boxes"] += 1
            box = None
        continues = is_enabled and box is not None and not every_frame
        points.append(TrackPoint(frame, box, labels, attributes, continues))
    return merge_points(points, video.skipped)
