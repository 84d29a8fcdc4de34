"""`benchmark readers`: time to open a video and to read a clip, for each video reader, on one thread."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from vmae_det.video.readers import open_video
from vmae_det.video.readers.frame_index import clear_frame_indices

_CLIP_FRAMES, _STRIDE = 16, 4


@dataclass(frozen=True)
class ReaderTimes:
    """Median milliseconds of one reader.

    Attributes:
        reader: DATALOADER.READER.
        short_side: size to which frames are resized; None: full size.
        first_opening: without an index of the frames.
        later_opening: with the index of an earlier opening.
        opening_and_clip: later opening, and reading of 16 frames at stride 4.
    """

    reader: str
    short_side: int | None
    first_opening: float
    later_opening: float
    opening_and_clip: float


def benchmark_readers(video: Path | None, short_side: int, repeats: int) -> list[ReaderTimes]:
    """Measure decord (if installed) and PyAV at full size and at a reduced size.

    Args:
        video: path of a file; None: a synthetic video of 1920 x 1080 pixels.
        short_side: the reduced size.
        repeats: number of measurements, of which the median is returned.
    """
    readers = ["decord"] if importlib.util.find_spec("decord") else []
    cases = [(reader, side) for reader in (*readers, "pyav") for side in (None, short_side)]
    times: dict[tuple[str, int | None], list[list[float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="vmae_det_benchmark_") as folder:
        path = video or _write_video(Path(folder) / "moving.mp4")
        for _ in range(repeats):
            for reader, side in cases:  # in turn, so that other load of the machine affects all of them
                functions = _measured_functions(path, reader, side)
                times[reader, side].append([_milliseconds(function) for function in functions])
    return [
        ReaderTimes(reader, side, *(statistics.median(values) for values in zip(*turns)))
        for (reader, side), turns in times.items()
    ]


def report(results: list[ReaderTimes]) -> str:
    """Return a Markdown table."""
    lines = [
        "| reader | frames | first opening | later opening | opening and 16 frames, stride 4 |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        times = (result.first_opening, result.later_opening, result.opening_and_clip)
        cells = " | ".join(f"{milliseconds:.0f} ms" for milliseconds in times)
        lines.append(f"| {result.reader} | {result.short_side or 'full'} | {cells} |")
    return "\n".join(lines)


def to_json(results: list[ReaderTimes]) -> list[dict[str, Any]]:
    """Return the results as JSON data, in milliseconds."""
    return [asdict(result) for result in results]


def _measured_functions(path: Path, reader: str, side: int | None) -> list[Callable[[], object]]:
    """Return the functions to measure, in order: the first opening caches the index of the frames."""
    clear_frame_indices()
    count = len(open_video(path, "pyav"))
    clear_frame_indices()
    span = _CLIP_FRAMES * _STRIDE
    clip = (np.arange(_CLIP_FRAMES) * _STRIDE + max(0, count - span) // 2).clip(max=count - 1)

    def read_clip() -> object:
        return open_video(path, reader, short_side=side).frames(clip)

    return [lambda: open_video(path, reader), lambda: open_video(path, reader), read_clip]


def _milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def _write_video(path: Path, frames: int = 250) -> Path:
    """Write a panning, noisy H.264 video of 1920 x 1080 pixels with the default settings of libx264."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (170, 300, 3)).repeat(8, axis=0).repeat(8, axis=1)
    image = np.clip(0.6 * cells + 40 + rng.normal(0, 4, cells.shape), 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for k in range(frames):
            view = np.ascontiguousarray(image[k : k + 1080, 2 * (k % 200) : 2 * (k % 200) + 1920])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())
    return path
