"""`benchmark feeding`: the CPU cores that prepare clips as fast as GPUs train on them, by source and reader.

One process prepares clips of the same videos from each source in turn. CPU time is measured, so that other
load of the machine matters less. Everything per GPU is calculated from it.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vmae_det.benchmarks.data import TimedReader
from vmae_det.benchmarks.synthetic_videos import write_videos
from vmae_det.config import CfgNode
from vmae_det.data import transforms
from vmae_det.data.catalog import get_dataset
from vmae_det.data.loader import build_train_dataset, collate
from vmae_det.data.worker_pool import KEPT_BLOCK
from vmae_det.dataset_tools.prepare.transcode import resize_video
from vmae_det.dataset_tools.shard_writer import write_shards
from vmae_det.utils.cpu import keep_freed_memory
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.resource_usage import Stopwatch, cpu_seconds
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.readers.base import get_reader_class
from vmae_det.video.readers.frame_index import clear_frame_indices

REPEATS = (1, 2, 4)  # of repeated augmentation
KINETICS_SECONDS = 240_000 * 10  # length of Kinetics-400: 240,000 videos of 10 s
_CLIP_SECONDS, _CLIP_FRAMES = 10, 16
_COMPARED_FRAMES = 10  # for PSNR
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Source:
    """One form of the videos.

    Attributes:
        name: what it is.
        paths: path of each video, for `open_video`.
        bytes_per_second: size of a second of video.
        bytes_per_clip: bytes that are read for a clip: a complete video of 10 s, to index its frames.
        psnr: mean over the videos, in dB, of the frames compared with those of the original; None if the
            frames are smaller.
    """

    name: str
    paths: list[Path]
    bytes_per_second: float
    bytes_per_clip: float
    psnr: float | None = None


@dataclass(frozen=True)
class Feeding:
    """Result for one source and one reader.

    Attributes:
        source, reader: what was read, and DATALOADER.READER.
        decode: CPU milliseconds to open a video that was not opened before and to decode a clip.
        transform: CPU milliseconds to transform and collate a sample.
        bytes_per_second, bytes_per_clip, psnr: see `Source`.
        rate: samples a second that one GPU trains on.
    """

    source: str
    reader: str
    decode: float
    transform: float
    bytes_per_second: float
    bytes_per_clip: float
    psnr: float | None
    rate: float

    def samples_per_core(self, repeats: int) -> float:
        """Return the samples a second of one core, if each decoded clip yields `repeats` samples."""
        return 1000 / (self.decode / repeats + self.transform)

    def cores(self, gpus: int, repeats: int = 1) -> int:
        """Return the number of cores that feed `gpus` GPUs."""
        return math.ceil(gpus * self.rate / self.samples_per_core(repeats))

    @property
    def disk(self) -> float:
        """Size of Kinetics-400 in GB."""
        return KINETICS_SECONDS * self.bytes_per_second / 1e9

    def read_rate(self, repeats: int = 1) -> float:
        """Return the MB a second that are read for one GPU."""
        return self.rate / repeats * self.bytes_per_clip / 1e6


def benchmark_feeding(
    cfg: CfgNode, videos: list[Path], short_sides: list[int], rate: float, repeats: int
) -> list[Feeding]:
    """Measure the sources and readers that are installed. Results are medians of `repeats` turns.

    Args:
        cfg: a config of pre-training.
        videos: original videos. Empty: synthetic videos of 340 x 256, and one of 1920 x 1080.
        short_sides: sizes to which they are re-encoded.
        rate: samples a second that one GPU trains on.
    """
    with tempfile.TemporaryDirectory(prefix="vmae_det_benchmark_") as folder:
        sources = _write_sources(Path(folder), videos, short_sides)
        cases = [(source, reader) for source in sources for reader in _readers(source)]
        cpu = [_Case(cfg, *case, Path(folder) / f"{short_sides[0]}_1") for case in cases]
        keep_freed_memory(KEPT_BLOCK)  # as in a loader worker
        threads = torch.get_num_threads(), cv2.getNumThreads()
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        try:
            for turn in range(repeats + 1):  # the first one warms up
                for case in random.Random(turn).sample(cpu, len(cpu)):
                    case.run(turn)
        finally:
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])
        return [case.result(rate) for case in cpu]


def report(results: list[Feeding]) -> str:
    """Return a Markdown table."""
    titles = [
        *("source", "reader", "open and decode, ms", "transform, ms", "clips/s and core"),
        *("repeated augmentation 2", "4", "Kinetics-400, GB", "read, MB/s a GPU"),
        *("cores for 1 GPU", "8 GPUs", "8 GPUs, repeated 2", "PSNR, dB"),
    ]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for result in results:
        cells = [
            *(result.source, result.reader, f"{result.decode:.1f}", f"{result.transform:.1f}"),
            *(f"{result.samples_per_core(repeats):.0f}" for repeats in REPEATS),
            *(f"{result.disk:.0f}", f"{result.read_rate():.0f}"),
            *(str(number) for number in (result.cores(1), result.cores(8), result.cores(8, 2))),
            "" if result.psnr is None else f"{result.psnr:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def to_json(results: list[Feeding]) -> list[dict[str, Any]]:
    """Return the results as JSON data."""
    return [
        asdict(result)
        | {
            "samples_per_core": {str(n): result.samples_per_core(n) for n in REPEATS},
            "cores": {str(gpus): result.cores(gpus) for gpus in (1, 8)},
            "kinetics400_gb": result.disk,
            "read_mb_per_second": result.read_rate(),
        }
        for result in results
    ]


class _Case:
    """A source and a reader, with its measurements."""

    def __init__(self, cfg: CfgNode, source: Source, reader: str, folder: Path) -> None:
        self.source, self.reader = source, reader
        cfg = cfg.clone()
        cfg.defrost()
        # The dataset draws the times of clips and transforms them. `_open` opens the videos of the source.
        cfg.DATASETS.TRAIN, cfg.DATALOADER.REPEATED_AUG = (str(folder),), 1
        self.short_side = transforms.needed_short_side(cfg, True) if cfg.DATALOADER.DECODE_SMALLER else None
        self.dataset = build_train_dataset(cfg, "pretraining")
        for part in self.dataset.datasets:
            part.open = self._open
        self.decode: list[float] = []
        self.transform: list[float] = []
        self.video, self.stopwatch = 0, Stopwatch(cpu_seconds)

    def _open(self, _: object) -> VideoReader:
        with self.stopwatch.measure("decode"):
            path = self.source.paths[self.video]
            return TimedReader(open_video(path, self.reader, short_side=self.short_side), self.stopwatch)

    def run(self, turn: int) -> None:
        """Prepare a clip of each video."""
        self.stopwatch = Stopwatch(cpu_seconds)
        start = cpu_seconds()
        for number in range(len(self.source.paths)):
            self.video = number
            clear_frame_indices()  # a worker caches far fewer videos than a dataset has
            collate([self.dataset[turn, 0]])
        total, decode = cpu_seconds() - start, self.stopwatch.seconds["decode"]
        if turn:
            self.decode.append(1000 * decode / len(self.source.paths))
            self.transform.append(1000 * (total - decode) / len(self.source.paths))

    def result(self, rate: float) -> Feeding:
        source = self.source
        decode, transform = statistics.median(self.decode), statistics.median(self.transform)
        sizes = source.bytes_per_second, source.bytes_per_clip
        return Feeding(source.name, self.reader, decode, transform, *sizes, source.psnr, rate)


def _readers(source: Source) -> list[str]:
    """Return the readers to measure. Those other than PyAV are measured on files only."""
    if not source.paths[0].is_file():
        return ["images" if source.paths[0].is_dir() else "pyav"]
    readers = ["pyav"]
    for name in ("decord", "torchcodec"):
        try:
            get_reader_class(name).check_available()
        except UserError:
            continue  # not installed
        readers.append(name)
    return readers


def _write_sources(folder: Path, videos: list[Path], short_sides: list[int]) -> list[Source]:
    sources = []
    if not videos:
        write_videos(folder / "1080p", 1920, 1080, 250, count=1)
        sources.append(_source("1920 x 1080, GOP 250", sorted((folder / "1080p").iterdir())))
        write_videos(folder / "original", 340, 256, 250, count=2)
        videos = sorted((folder / "original").iterdir())
    original = _source("340 x 256, GOP 250" if sources else "original", videos)
    sources.append(original)
    for side in short_sides:
        for gop in (250, 16, 1):
            name = f"resize --short-side {side} --gop {gop}"
            target = folder / f"{side}_{gop}"
            paths = [
                _resized(video, target / f"{number}.mp4", side, gop) for number, video in enumerate(videos)
            ]
            sources.append(_source(name, paths, original))
    side = short_sides[0]
    smallest = folder / f"{side}_1"
    (folder / "shards").mkdir()
    shards = write_shards(get_dataset(str(smallest)), folder / "shards", 10**9)
    names = [shards[0] / path.name for path in sorted(smallest.iterdir())]
    sources.append(
        _source(f"resize --short-side {side} --gop 1, tar shards", names, original, shards[0].stat().st_size)
    )
    jpegs = [
        _write_jpegs(path, folder / "jpeg" / path.stem) for path in sorted((folder / f"{side}_16").iterdir())
    ]
    size = sum(file.stat().st_size for path in jpegs for file in path.iterdir())
    sources.append(_source(f"folders of JPEG images, short side {side}", jpegs, original, size))
    return sources


def _source(name: str, paths: list[Path], original: Source | None = None, size: int | None = None) -> Source:
    size = sum(path.stat().st_size for path in paths) if size is None else size
    frames, rates = zip(*((len(reader), float(reader.rate)) for reader in map(open_video, paths)))
    rate = size / sum(count / fps for count, fps in zip(frames, rates))
    clip = _CLIP_FRAMES * size / sum(frames) if paths[0].is_dir() else _CLIP_SECONDS * rate
    return Source(name, paths, rate, clip, _psnr(paths, original.paths) if original else None)


def _psnr(paths: list[Path], originals: list[Path]) -> float | None:
    values = []
    for path, original in zip(paths, originals):
        reader, reference = open_video(path), open_video(original)
        wanted = np.linspace(0, min(len(reader), len(reference)) - 1, _COMPARED_FRAMES).astype(int)
        expected = reference.frames(wanted)
        frames = reader.frames(wanted)
        height, width = expected.shape[1:3]
        if min(frames.shape[1:3]) != min(height, width):
            return None
        # Re-encoded sizes are rounded to even numbers.
        frames = np.stack([cv2.resize(frame, (width, height)) for frame in frames])
        error = np.mean((frames.astype(np.float32) - expected) ** 2)
        values.append(10 * math.log10(255**2 / max(float(error), 1e-9)))
    return statistics.mean(values)


def _resized(video: Path, target: Path, side: int, gop: int) -> Path:
    problem = resize_video(video, target, side, gop)
    if isinstance(problem, UserError):
        raise problem
    if problem:
        raise DataError(problem, video)
    return target


def _write_jpegs(video: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    reader = open_video(video)
    for number, frame in reader.stream():
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        cv2.imwrite(str(folder / f"img_{number + 1:05d}.jpg"), frame[:, :, ::-1], options)
    (folder / "rate.txt").write_text(f"{reader.rate}\n")
    return folder
