"""Video files: which are there, which can be read, and why an id has none."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.findings import MAX_EXAMPLES, Example, Finding, finding_of_rows
from vmae_det.dataset_tools.process_map import WorkerDied, run_apart
from vmae_det.utils.file_types import VIDEO_SUFFIXES
from vmae_det.video.discovery import videos_by_id
from vmae_det.video.probe import VideoInfo, probe_video
from vmae_det.video.shards import Shards

# Seconds that a video may take; decoding a long movie whole takes its time.
_PATIENCE = {"none": 60, "ends": 120, "all": 7200}


def files_by_id(videos: Path | Shards) -> Mapping[str, Path]:
    """Video id to file, as training looks for them: in shards, or in the folder itself; none without such a
    folder."""
    return videos_by_id(videos) if isinstance(videos, Shards) or videos.is_dir() else {}


def real_paths(shards: Shards) -> list[str]:
    """The paths of the videos in shards, by which they are the same in whatever dataset."""
    real = [str(file.resolve()) for file in shards.files]
    return [f"{real[shard]}/{name}" for shard, name in shards.videos.members()]


def probe_videos(paths: Iterable[Path], decode: str, workers: int | None = None) -> dict[Path, VideoInfo]:
    """Facts of each file, read in parallel processes; `decode` as of `probe_video`."""
    names = sorted({str(path) for path in paths})
    ask = functools.partial(probe_video, decode=decode)
    count = workers or min(os.cpu_count() or 1, 16)
    facts = {}
    for name, answer in run_apart(ask, names, count, _PATIENCE[decode], "reading videos"):
        facts[Path(name)] = VideoInfo(name, problem=str(answer)) if isinstance(answer, WorkerDied) else answer
    return facts


def unreadable_findings(facts: dict[Path, VideoInfo]) -> list[Finding]:
    """The files that cannot be read."""
    bad = sorted((fact for fact in facts.values() if fact.problem), key=lambda fact: fact.path)
    if not bad:
        return []
    examples = tuple(Example(fact.path, None, fact.problem) for fact in bad[:MAX_EXAMPLES])
    what = f"{len(bad)} of {len(facts)} video files cannot be read"
    return [Finding("unreadable_video", len(bad), what, examples, "fetch or encode these files anew")]


def missing_findings(
    rows: pl.DataFrame, path: Path, known: Mapping[str, Path], videos: Path | Shards
) -> list[Finding]:
    """One finding for all ids of `rows` (`video`, `line`, `text`) without a file; it counts videos."""
    first = rows.filter(~pl.col("video").is_in(list(known))).unique(
        "video", keep="first", maintain_order=True
    )
    if first.is_empty():
        return []
    guesses = [_guess(name, known, videos) for name in first["video"].head(200)]
    guess = next(filter(None, guesses), "")
    total = rows["video"].n_unique()
    what = f"of {total} video ids have no file in {videos}"
    advice = guess or f"a video's file is named after its id: {first['video'][0]}.mp4, or another suffix"
    return finding_of_rows("missing_video", first, path, what, advice)


def _guess(name: str, known: Mapping[str, Path], videos: Path | Shards) -> str:
    """Why an id has no file, where it can be told."""
    stem = Path(name).stem
    if stem != name and stem in known:
        return f"write {stem} instead of {name}: ids have no folder and no suffix"
    lower = {other.lower(): other for other in known}
    if name.lower() in lower:
        return f"there is {known[lower[name.lower()]].name}: capital letters count"
    if not known:
        below = next((p for p in videos.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES), None)
        if below:
            inside = below.relative_to(videos)
            return f"the folder holds no video itself, but {inside}: let `videos` name that folder"
        return "the folder holds no video"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"is '{name}' a slip for '{near[0]}'?" if near else ""


def sizes_of(facts: dict[str, VideoInfo]) -> pl.DataFrame:
    """`video`, `width`, `height`, `frames`, `seconds`, `last` and `rate` of the readable videos, by id."""
    good = {name: fact for name, fact in facts.items() if not fact.problem}
    schema = dict.fromkeys(("width", "height", "frames"), pl.Int64)
    schema |= dict.fromkeys(("seconds", "last", "rate"), pl.Float64)
    columns = {name: [getattr(fact, name) for fact in good.values()] for name in schema}
    return pl.DataFrame({"video": list(good), **columns}, schema={"video": pl.String, **schema})
