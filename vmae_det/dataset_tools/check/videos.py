"""Video checks: missing and unreadable files, and why an id has no file."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.report import MAX_EXAMPLES, Example, Finding, rows_finding
from vmae_det.dataset_tools.isolated_map import WorkerFailure, isolated_map
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.file_types import VIDEO_SUFFIXES
from vmae_det.video.discovery import videos_by_id
from vmae_det.video.probe import VideoInfo, probe_video
from vmae_det.video.shards import Shards

# Timeout for one video in seconds, by how much of it is decoded. Decoding a long movie takes hours.
_TIMEOUTS = {"none": 60, "ends": 120, "all": 7200}


def files_by_id(videos: Path | Shards) -> Mapping[str, Path]:
    """Return video id to file, as training finds them: in shards, or directly in the folder.

    A folder that does not exist has no files.
    """
    return videos_by_id(videos) if isinstance(videos, Shards) or videos.is_dir() else {}


def resolved_paths(shards: Shards) -> list[str]:
    """Return the paths of the videos in shards, resolved, so that they can be compared between datasets."""
    resolved = [str(file.resolve()) for file in shards.files]
    return [f"{resolved[shard]}/{name}" for shard, name in shards.videos.members()]


def probe_videos(paths: Iterable[Path], decode: str, workers: int | None = None) -> dict[Path, VideoInfo]:
    """Probe each file in parallel processes; `decode` as of `probe_video`."""
    names = sorted({str(path) for path in paths})
    probe = functools.partial(probe_video, decode=decode)
    count = workers or min(count_cores(), 16)
    infos = {}
    for name, result in isolated_map(probe, names, count, _TIMEOUTS[decode], "reading videos"):
        infos[Path(name)] = (
            VideoInfo(name, problem=str(result)) if isinstance(result, WorkerFailure) else result
        )
    return infos


def unreadable_findings(infos: dict[Path, VideoInfo]) -> list[Finding]:
    """Return the finding of the files that cannot be read."""
    bad = sorted((info for info in infos.values() if info.problem), key=lambda info: info.path)
    if not bad:
        return []
    examples = tuple(Example(info.path, None, info.problem) for info in bad[:MAX_EXAMPLES])
    what = f"{len(bad)} of {len(infos)} video files cannot be read"
    return [Finding("unreadable_video", len(bad), what, examples, "download or encode these files again")]


def missing_findings(
    rows: pl.DataFrame, path: Path, known: Mapping[str, Path], videos: Path | Shards
) -> list[Finding]:
    """Return one finding about all ids of `rows` (`video`, `line`, `text`) without a file; count videos."""
    first = rows.filter(~pl.col("video").is_in(list(known))).unique(
        "video", keep="first", maintain_order=True
    )
    if first.is_empty():
        return []
    guesses = [_guess_cause(name, known, videos) for name in first["video"].head(200)]
    guess = next(filter(None, guesses), "")
    total = rows["video"].n_unique()
    what = f"of {total} video ids have no file in {videos}"
    advice = guess or f"name the file of a video after its id: {first['video'][0]}.mp4, or another suffix"
    return rows_finding("missing_video", first, path, what, advice)


def _guess_cause(name: str, known: Mapping[str, Path], videos: Path | Shards) -> str:
    """Return why an id has no file; '' if unknown."""
    stem = Path(name).stem
    if stem != name and stem in known:
        return f"write {stem} instead of {name}: ids have no folder and no suffix"
    lower = {other.lower(): other for other in known}
    if name.lower() in lower:
        return f"there is a file {known[lower[name.lower()]].name}; names are case-sensitive"
    if not known:
        below = next((p for p in videos.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES), None)
        if below:
            inside = below.relative_to(videos)
            return f"the folder contains no videos directly, but {inside}: set `videos` to that folder"
        return "the folder contains no videos"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"did you mean '{near[0]}' instead of '{name}'?" if near else ""


def video_table(infos: dict[str, VideoInfo]) -> pl.DataFrame:
    """Return a table of the readable videos.

    Columns are `video` (the id), and `width`, `height`, `frames`, `seconds`, `last`, `rate` of `VideoInfo`.

    Args:
        infos: by video id.
    """
    good = {name: info for name, info in infos.items() if not info.problem}
    schema = dict.fromkeys(("width", "height", "frames"), pl.Int64)
    schema |= dict.fromkeys(("seconds", "last", "rate"), pl.Float64)
    columns = {name: [getattr(info, name) for info in good.values()] for name in schema}
    return pl.DataFrame({"video": list(good), **columns}, schema={"video": pl.String, **schema})
