"""`benchmark data`: clips per second of the data loader, compared with decoding alone."""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vmae_det.config import CfgNode
from vmae_det.data.loader import build_train_dataset, build_train_loader, collate
from vmae_det.data.samplers import TrainSampler
from vmae_det.data.worker_pool import PREFETCH
from vmae_det.engine.setup import get_device
from vmae_det.engine.trainer import to_device
from vmae_det.modeling import model_class
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.readers import VideoReader
from vmae_det.video.readers.base import VideoLocation, locate_video

_BATCH_SIZE = 4
_WARM_UP_BATCHES = 4
STAGES = ("read", "decode", "transform", "collate", "copy")


@dataclass(frozen=True)
class DataBenchmark:
    """Result of the benchmark. A clip is decoded once; one or more samples are cropped from it.

    Args:
        workers: number of loader workers.
        stages: milliseconds per decoded clip of one process, by stage.
        ceiling: clips per second that the workers decode if they do nothing else.
        loader: clips per second of the loader.
        samples: samples per second of the loader.
        baseline: clips per second with PIL images and per-frame transforms; None if not measured.
        share_of_ceiling, times_baseline: rate of the loader relative to theirs in the same turn, median over
            the turns.
    """

    workers: int
    stages: dict[str, float]
    ceiling: float
    loader: float
    samples: float
    baseline: float | None
    share_of_ceiling: float
    times_baseline: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return asdict(self)

    def report(self) -> str:
        """Return a line for each stage and each rate."""
        lines = ["one process, milliseconds per clip:"]
        lines += [f"  {stage:10}{milliseconds:9.2f}" for stage, milliseconds in self.stages.items()]
        lines += [
            f"{self.workers} workers, clips a second:",
            f"  decoder alone  {self.ceiling:9.2f}",
            f"  loader         {self.loader:9.2f}   {100 * self.share_of_ceiling:.0f} % of the decoder alone",
            f"  samples        {self.samples:9.2f}",
        ]
        if self.baseline is not None:
            times = f"the loader is {self.times_baseline:.2f} times as fast"
            lines.append(f"  frame by frame {self.baseline:9.2f}   with PIL; {times}")
        slowest = max((stage for stage in STAGES if stage != "decode"), key=self.stages.get)
        lines.append(f"after decoding, the slowest stage is {slowest}")
        return "\n".join(lines)


def benchmark_data(cfg: CfgNode, clips: int = 64, repeats: int = 3) -> DataBenchmark:
    """Measure the training data of a config. Rates are medians of `repeats` turns; the methods take turns."""
    dataset = build_train_dataset(cfg, model_class(cfg).task)
    workers = max(cfg.DATALOADER.NUM_WORKERS, 1)
    methods = {"ceiling": _DecodeOnly(dataset), "loader": None}
    comparable = model_class(cfg).task == "pretraining" and cfg.INPUT.TRAIN_CROP == "multi_scale"
    if comparable and importlib.util.find_spec("decord"):
        methods["baseline"] = _FrameByFrame(dataset, cfg)
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            rates[name].append(
                _loader_rate(cfg, dataset, clips)
                if method is None
                else _rate(method, _sampler(cfg, dataset), clips, workers)
            )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        name: statistics.median(loader / other for loader, other in zip(rates["loader"], values))
        for name, values in rates.items()
    }
    batches = itertools.islice(_sampler(cfg, dataset), max(clips // _BATCH_SIZE // 4, 1))
    stages = _measure_stages(dataset, list(itertools.chain.from_iterable(batches)), get_device(cfg))
    samples = medians["loader"] * cfg.DATALOADER.REPEATED_AUG
    return DataBenchmark(
        workers,
        stages,
        medians["ceiling"],
        medians["loader"],
        samples,
        medians.get("baseline"),
        ratios["ceiling"],
        ratios.get("baseline"),
    )


def _sampler(cfg: CfgNode, dataset: Any) -> TrainSampler:
    """Return the infinite sampler of the loader."""
    return TrainSampler(len(dataset), _BATCH_SIZE, len(dataset) // _BATCH_SIZE, cfg.SEED)


def _rate(dataset: Any, sampler: TrainSampler, clips: int, workers: int) -> float:
    """Return clips per second of a dataset, with the batch size and number of workers of the loader."""
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=list, prefetch_factor=PREFETCH
    )
    return _clip_rate(iter(loader), clips // _BATCH_SIZE)


def _loader_rate(cfg: CfgNode, dataset: Any, clips: int) -> float:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.ACCUMULATE = _BATCH_SIZE, 1
    cfg.DATALOADER.NUM_WORKERS = max(cfg.DATALOADER.NUM_WORKERS, 1)
    loader = iter(build_train_loader(cfg, dataset))
    rate = _clip_rate(loader, clips // _BATCH_SIZE)
    loader.close()
    return rate


def _clip_rate(batches: Iterator[Any], number: int) -> float:
    """Return clips per second of `number` batches, without those that were prefetched at the start."""
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    start = time.perf_counter()
    for _ in range(number - _WARM_UP_BATCHES):
        next(batches)
    return _BATCH_SIZE * (number - _WARM_UP_BATCHES) / (time.perf_counter() - start)


def _load(dataset: Any, key: tuple[int, int]) -> np.ndarray:
    """Decode the clip of a sample, uint8 (T, H, W, 3)."""
    part, index = dataset.locate(key[1])
    clip, _ = part.load(index, np.random.default_rng((part.cfg.SEED, *key)))
    return clip.frames.permute(0, 2, 3, 1).numpy()


class _DecodeOnly(torch.utils.data.Dataset):
    """Decodes the clips of a dataset and drops them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> int:
        return len(_load(self.dataset, key))


class _FrameByFrame(torch.utils.data.Dataset):
    """The usual way to load pre-training clips, as a baseline.

    decord decodes; each frame is cropped, resized and flipped with PIL; the worker normalizes to floats.
    """

    def __init__(self, dataset: Any, cfg: CfgNode) -> None:
        self.dataset = copy.deepcopy(dataset)
        self.cfg = cfg
        for part in self.dataset.datasets:
            part.open = _DecordReader

    def __getitem__(self, key: tuple[int, int]) -> list[torch.Tensor]:
        frames = _load(self.dataset, key)
        repeats = range(self.cfg.DATALOADER.REPEATED_AUG)
        return [self._sample(frames, np.random.default_rng((*key, repeat))) for repeat in repeats]

    def _sample(self, frames: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        node = self.cfg.INPUT
        height, width = frames.shape[1:3]
        h, w = (int(min(height, width) * rng.choice(node.CROP_SCALES)) for _ in range(2))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        images = [Image.fromarray(frame).convert("RGB") for frame in frames]
        images = [image.crop((left, top, left + w, top + h)) for image in images]
        side = (node.CROP_SIZE, node.CROP_SIZE)
        images = [image.resize(side, Image.Resampling.BILINEAR) for image in images]
        if rng.random() < node.FLIP:
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        video = torch.from_numpy(np.stack([np.asarray(image) for image in images])).float() / 255
        for image in video:
            image.sub_(torch.tensor(self.cfg.MODEL.PIXEL_MEAN) / 255)
            image.div_(torch.tensor(self.cfg.MODEL.PIXEL_STD) / 255)
        return video.permute(3, 0, 1, 2).contiguous()


class _DecordReader:
    """decord without resizing."""

    def __init__(self, video: Path | VideoLocation) -> None:
        import decord

        location = video if isinstance(video, VideoLocation) else locate_video(video)
        self._reader = decord.VideoReader(location.url, num_threads=1)

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self._reader.get_batch(indices).asnumpy()


class TimedReader:
    """A reader that adds its decoding time to the stage "decode" of a stopwatch."""

    def __init__(self, reader: VideoReader, stopwatch: Stopwatch) -> None:
        self._reader, self._stopwatch = reader, stopwatch

    def __len__(self) -> int:
        return len(self._reader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """Return frames (see `VideoReader.frames`)."""
        with self._stopwatch.measure("decode"):
            return self._reader.frames(indices)


def _measure_stages(dataset: Any, keys: list[tuple[int, int]], device: torch.device) -> dict[str, float]:
    """Return milliseconds per clip of each stage, in this process."""
    dataset, stopwatch = copy.deepcopy(dataset), Stopwatch()
    for part in dataset.datasets:
        part.open = functools.partial(_timed_open, part.open, stopwatch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader worker
    start = time.perf_counter()
    for key in keys:
        samples = dataset[key]
        with stopwatch.measure("collate"):
            batch = collate([samples])
        with stopwatch.measure("copy"):
            to_device(batch, device)
            if device.type == "cuda":
                torch.cuda.synchronize()
    total = time.perf_counter() - start
    torch.set_num_threads(threads)
    stopwatch.seconds["transform"] = total - sum(stopwatch.seconds.values())
    return {stage: 1000 * stopwatch.seconds[stage] / len(keys) for stage in STAGES}


def _timed_open(
    open_reader: Callable[[Path | VideoLocation], VideoReader],
    stopwatch: Stopwatch,
    video: Path | VideoLocation,
) -> TimedReader:
    with stopwatch.measure("read"):
        return TimedReader(open_reader(video), stopwatch)
