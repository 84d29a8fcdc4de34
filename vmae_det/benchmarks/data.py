"""How many clips a second the loader gives, beside what decoding them alone would allow."""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from vmae_det.engine.trainer import to_device
from vmae_det.modeling import model_class
from vmae_det.video.readers import VideoReader
from vmae_det.video.readers.base import VideoLocation, locate_video

_BATCH = 4
_WARM_UP = 4  # batches
STAGES = ("read", "decode", "transform", "collate", "copy")


@dataclass(frozen=True)
class DataBenchmark:
    """What was measured; a clip is one that is decoded, a sample one that is cut from it.

    Args:
        workers: loader processes.
        stages: milliseconds of one process for a decoded clip, by stage.
        ceiling: clips a second that the processes decode when they do nothing else.
        loader: clips a second that the loader gives.
        samples: samples a second that the loader gives.
        baseline: clips a second of PIL images and per-frame transforms; None where not measured.
        share_of_ceiling, times_baseline: the loader beside them in the same turn, median over the turns.
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
        """What json.dump takes."""
        return asdict(self)

    def report(self) -> str:
        """A line for each stage and each rate."""
        lines = ["one process, milliseconds a clip:"]
        lines += [f"  {stage:10}{milliseconds:9.2f}" for stage, milliseconds in self.stages.items()]
        lines += [
            f"{self.workers} processes, clips a second:",
            f"  decoder alone  {self.ceiling:9.2f}",
            f"  loader         {self.loader:9.2f}   {100 * self.share_of_ceiling:.0f} % of the decoder alone",
            f"  samples        {self.samples:9.2f}",
        ]
        if self.baseline is not None:
            times = f"the loader gives {self.times_baseline:.2f} times it"
            lines.append(f"  frame by frame {self.baseline:9.2f}   with PIL; {times}")
        held = max((stage for stage in STAGES if stage != "decode"), key=self.stages.get)
        lines.append(f"beside decoding, {held} takes most of the time")
        return "\n".join(lines)


def benchmark_data(cfg: CfgNode, clips: int = 64, repeats: int = 3) -> DataBenchmark:
    """Measure the training data of a config; the rates are medians of `repeats` turns, taken in rotation."""
    dataset = build_train_dataset(cfg, model_class(cfg).task)
    workers = max(cfg.DATALOADER.NUM_WORKERS, 1)
    ways = {"ceiling": _Decoded(dataset), "loader": None}
    comparable = model_class(cfg).task == "pretraining" and cfg.INPUT.TRAIN_CROP == "multi_scale"
    if comparable and importlib.util.find_spec("decord"):
        ways["baseline"] = _FrameByFrame(dataset, cfg)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            rates[name].append(
                _loader_rate(cfg, dataset, clips)
                if way is None
                else _rate(way, _order(cfg, dataset), clips, workers)
            )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        name: statistics.median(loader / other for loader, other in zip(rates["loader"], values))
        for name, values in rates.items()
    }
    batches = itertools.islice(_order(cfg, dataset), max(clips // _BATCH // 4, 1))
    stages = _stages(dataset, list(itertools.chain.from_iterable(batches)))
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


def _order(cfg: CfgNode, dataset: Any) -> TrainSampler:
    """The batches of keys that the loader reads, endless."""
    return TrainSampler(len(dataset), _BATCH, len(dataset) // _BATCH, cfg.SEED)


def _rate(way: Any, order: TrainSampler, clips: int, workers: int) -> float:
    """Clips a second of a way to make them; clips, batches and processes are the loader's."""
    loader = DataLoader(
        way, batch_sampler=order, num_workers=workers, collate_fn=list, prefetch_factor=PREFETCH
    )
    return _count(iter(loader), clips // _BATCH)


def _loader_rate(cfg: CfgNode, dataset: Any, clips: int) -> float:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.ACCUMULATE = _BATCH, 1
    cfg.DATALOADER.NUM_WORKERS = max(cfg.DATALOADER.NUM_WORKERS, 1)
    loader = iter(build_train_loader(cfg, dataset))
    rate = _count(loader, clips // _BATCH)
    loader.close()
    return rate


def _count(batches: Iterator[Any], number: int) -> float:
    """Clips a second of `number` batches, after those that were made while the processes started."""
    for _ in range(_WARM_UP):
        next(batches)
    start = time.perf_counter()
    for _ in range(number - _WARM_UP):
        next(batches)
    return _BATCH * (number - _WARM_UP) / (time.perf_counter() - start)


def _load(dataset: Any, key: tuple[int, int]) -> np.ndarray:
    """The decoded clip of a sample, uint8 (T, H, W, 3)."""
    part, index = dataset.place(key[1])
    clip, _ = part.load(index, np.random.default_rng((part.cfg.SEED, *key)))
    return clip.frames.permute(0, 2, 3, 1).numpy()


class _Decoded(torch.utils.data.Dataset):
    """The clips of a dataset, decoded and dropped."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> int:
        return len(_load(self.dataset, key))


class _FrameByFrame(torch.utils.data.Dataset):
    """Clips for pre-training made the usual way: decoded by decord, one PIL image after the other cut,
    resized and flipped, then floats that are normalised before they travel."""

    def __init__(self, dataset: Any, cfg: CfgNode) -> None:
        self.dataset = copy.deepcopy(dataset)
        self.cfg = cfg
        for part in self.dataset.datasets:
            part.open = _BareDecord

    def __getitem__(self, key: tuple[int, int]) -> list[torch.Tensor]:
        frames = _load(self.dataset, key)
        copies = range(self.cfg.DATALOADER.REPEATED_AUG)
        return [self._sample(frames, np.random.default_rng((*key, copy))) for copy in copies]

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


class _BareDecord:
    """decord as it is, at full size."""

    def __init__(self, video: Path | VideoLocation) -> None:
        import decord

        source = video if isinstance(video, VideoLocation) else locate_video(video)
        self._reader = decord.VideoReader(source.address, num_threads=1)

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self._reader.get_batch(indices).asnumpy()


class _Stopwatch:
    """Adds up what the stages of one process take, in seconds."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


class _TimedReader:
    """A reader whose decoding is timed."""

    def __init__(self, reader: VideoReader, watch: _Stopwatch) -> None:
        self._reader, self._watch = reader, watch

    def __len__(self) -> int:
        return len(self._reader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        with self._watch.stage("decode"):
            return self._reader.frames(indices)


def _stages(dataset: Any, keys: list[tuple[int, int]]) -> dict[str, float]:
    """Milliseconds a clip of each stage, in this process alone."""
    dataset, watch = copy.deepcopy(dataset), _Stopwatch()
    for part in dataset.datasets:
        part.open = functools.partial(_timed_open, part.open, watch)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader process
    start = time.perf_counter()
    for key in keys:
        samples = dataset[key]
        with watch.stage("collate"):
            batch = collate([samples])
        with watch.stage("copy"):
            to_device(batch, device)
            if device.type == "cuda":
                torch.cuda.synchronize()
    total = time.perf_counter() - start
    torch.set_num_threads(threads)
    watch.seconds["transform"] = total - sum(watch.seconds.values())
    return {name: 1000 * seconds / len(keys) for name, seconds in watch.seconds.items()}


def _timed_open(
    open_it: Callable[[Path | VideoLocation], VideoReader], watch: _Stopwatch, video: Path | VideoLocation
) -> _TimedReader:
    with watch.stage("read"):
        return _TimedReader(open_it(video), watch)
