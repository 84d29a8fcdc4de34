"""Build datasets and data loaders from a config; collate samples into batches."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, Sampler
from tqdm import tqdm

from vmae_det.config import CfgNode
from vmae_det.data.bad_samples import BadSampleTracker, FaultTolerantDataset
from vmae_det.data.buffer_pool import BufferPool, pickle_as_bytes
from vmae_det.data.catalog import get_dataset
from vmae_det.data.classes import ModelClasses
from vmae_det.data.contrastive import ContrastiveVideos  # noqa: F401, registers it
from vmae_det.data.datasets import DATASET_REGISTRY, ClipDataset, Sample
from vmae_det.data.mixup import BatchMixing
from vmae_det.data.samplers import MixedTrainSampler, TestSampler, TrainSampler, split_by_weight
from vmae_det.data.worker_pool import FaultTolerantLoader
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.registry import lookup
from vmae_det.video.readers.base import get_reader_class

Batch = dict[str, Any]

# These are stacked into tensors (B, ...). All others stay lists with one entry per clip.
CLIP_KEYS = ("video", "target", "video2")
STACKED_KEYS = (*CLIP_KEYS, "seed", "index", "label", "video_index", "complete_persons")


def collate(samples: list[list[Sample]], pool: BufferPool | None = None) -> Batch:
    """Collate samples whose clips have the same size into a batch.

    Args:
        samples: samples grouped by the clip that they were cut from.
        pool: where a loader worker stores the clips; None stacks them as ordinary tensors.
    """
    flat = [sample for group in samples for sample in group]
    batch: Batch = {key: [sample[key] for sample in flat] for key in flat[0]}
    if "views" in batch:
        batch["views"] = [collate([list(view)]) for view in zip(*batch["views"])]
    clips = {key: batch.pop(key) for key in CLIP_KEYS if key in batch} if pool is not None else {}
    for key in STACKED_KEYS:
        if key in batch:
            column = batch[key]
            batch[key] = torch.stack(column) if torch.is_tensor(column[0]) else torch.tensor(column)
    if pool is None:
        return batch
    return pickle_as_bytes(batch) | pool.put(clips, torch.utils.data.get_worker_info().id)


def collate_by_size(samples: list[list[Sample]]) -> list[Batch]:
    """Collate samples into one batch per frame size, so that no clip is padded to the size of another."""
    by_size: dict[tuple[torch.Size, ...], list[list[Sample]]] = {}
    for group in samples:
        sizes = tuple(view["video"].shape for view in (group[0], *group[0].get("views", ())))
        by_size.setdefault(sizes, []).append(group)
    return [collate(groups) for groups in by_size.values()]


class ConcatClipDataset(torch.utils.data.Dataset):
    """Concatenation of several datasets.

    Args:
        datasets: the datasets.
        classes: classes by which their samples are labeled; None if the task has none, or they have no names.
        weights: weight of each dataset in training; None: its size.
    """

    def __init__(
        self,
        datasets: list[ClipDataset],
        classes: ModelClasses | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.datasets = datasets
        self.classes = classes
        self.weights = weights
        self.ends = np.cumsum([len(dataset) for dataset in datasets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def num_files(self) -> int:
        """Number of video files."""
        return sum(dataset.num_files for dataset in self.datasets)

    def class_counts(self, number: int) -> np.ndarray | None:
        """Return the number of labels of each of the model's `number` classes in an epoch, (number,).

        It is None without classes. With weights, it is the expected number, a float.
        """
        counts = [dataset.class_counts(number) for dataset in self.datasets]
        if any(count is None for count in counts):
            return None
        if self.weights is None:
            return np.sum(counts, axis=0)
        sizes = [len(dataset) for dataset in self.datasets]
        passes = len(self) * np.divide(self.weights, sizes) / np.sum(self.weights)
        return np.sum([count * own for count, own in zip(counts, passes)], axis=0)

    def __getitem__(self, key: tuple[int, int]) -> list[Sample]:
        epoch, index = key
        dataset, index = self.locate(index)
        return dataset[epoch, index]

    def path_of(self, index: int) -> Path:
        """Return the video that a sample is cut from."""
        dataset, index = self.locate(index)
        return dataset.path_of(index)

    def locate(self, index: int) -> tuple[ClipDataset, int]:
        """Return the dataset that contains a sample, and the index of the sample in it."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        start = self.ends[number] - len(self.datasets[number])
        return self.datasets[number], int(index - start)


def build_dataset(
    cfg: CfgNode, task: str, name: str, training: bool, classes: ModelClasses | None = None
) -> ClipDataset:
    """Build a dataset for a task.

    Args:
        cfg: the config.
        task: name in DATASET_REGISTRY.
        name: name, dataset file or folder (see `get_dataset`).
        training: whether it is for training.
        classes: classes of the model; None uses those of the dataset.

    Raises:
        ConfigError: the model lacks a class of the dataset, or the config has another number of classes.
    """
    dataset = _build_dataset(cfg, task, name, training)
    _use_common_classes([dataset], classes)
    return dataset


def build_train_dataset(cfg: CfgNode, task: str, classes: ModelClasses | None = None) -> ConcatClipDataset:
    """Build the datasets of DATASETS.TRAIN.

    Args:
        cfg: the config.
        task: name in DATASET_REGISTRY.
        classes: classes of a model whose training is resumed; None uses those of the first dataset that has
            class names.
    """
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN: is empty; set a dataset such as \"('mini_ava_train',)\"")
    datasets = [_build_dataset(cfg, task, name, training=True) for name in cfg.DATASETS.TRAIN]
    weights = cfg.DATASETS.TRAIN_WEIGHTS or None
    return ConcatClipDataset(datasets, _use_common_classes(datasets, classes), weights)


def _build_dataset(cfg: CfgNode, task: str, name: str, training: bool) -> ClipDataset:
    """Build a dataset by the class registered as "TASK/TYPE", or by that of the task if there is none."""
    spec = get_dataset(name, cfg.DATASETS.ROOT)
    by_type = f"{task}/{spec.type}"
    key = by_type if by_type in DATASET_REGISTRY else task
    dataset_class = lookup(DATASET_REGISTRY, key, "MODEL.META_ARCHITECTURE (its task)")
    return dataset_class(cfg, spec, training)


def _use_common_classes(datasets: list[ClipDataset], classes: ModelClasses | None) -> ModelClasses | None:
    """Label the samples of all datasets by `classes`, or by those of the first dataset with class names."""
    for dataset in datasets:
        if classes is None and dataset.label_map is not None:
            classes = ModelClasses(dataset.label_map, str(dataset.spec.label_map))
    if classes is not None:
        for dataset in datasets:
            dataset.use_classes(classes)
    return classes


def steps_per_epoch(cfg: CfgNode, dataset: Any) -> int:
    """Return the optimizer steps of an epoch; ConfigError if the dataset is smaller than a batch."""
    if len(dataset) < cfg.SOLVER.BATCH_SIZE:
        raise ConfigError(
            f"SOLVER.BATCH_SIZE: {cfg.SOLVER.BATCH_SIZE}, but DATASETS.TRAIN {cfg.DATASETS.TRAIN} has only "
            f"{len(dataset)} clips per epoch; set it to {len(dataset)} or less"
        )
    return len(dataset) // cfg.SOLVER.BATCH_SIZE


def samples_per_epoch(cfg: CfgNode, dataset: ConcatClipDataset) -> list[int]:
    """Return how many samples of each training set an epoch uses. Without weights, this is its size.

    Raises:
        ConfigError: the dataset is smaller than a batch, or the weight of a training set gives it no sample.
    """
    sizes = [len(part) for part in dataset.datasets]
    if dataset.weights is None:
        return sizes
    total = steps_per_epoch(cfg, dataset) * cfg.SOLVER.BATCH_SIZE
    counts = split_by_weight(total, dataset.weights)
    for name, weight, count in zip(cfg.DATASETS.TRAIN, dataset.weights, counts):
        if not count:
            raise ConfigError(
                f"DATASETS.TRAIN_WEIGHTS: {weight:g} for {name} is less than one of the {total} samples of "
                "an epoch; increase it, or remove the dataset from DATASETS.TRAIN"
            )
    return counts


def describe_mix(cfg: CfgNode, dataset: ConcatClipDataset) -> list[str]:
    """Return a line for each of several training sets: its samples in an epoch, and how often it is read."""
    if len(dataset.datasets) < 2:
        return []
    counts = samples_per_epoch(cfg, dataset)
    return [
        f"{part.spec.name}: {count} of {sum(counts)} samples an epoch ({100 * count / sum(counts):.1f} %), "
        f"its {len(part)} samples {count / len(part):.3g} times"
        for part, count in zip(dataset.datasets, counts)
    ]


def build_train_loader(cfg: CfgNode, dataset: ConcatClipDataset, start_step: int = 0) -> FaultTolerantLoader:
    """Build the loader of this process's infinite training batches, from optimizer step `start_step` on."""
    world_size = distributed.get_world_size()
    accumulate = cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.BATCH_SIZE % (accumulate * world_size):
        raise ConfigError(
            f"SOLVER.BATCH_SIZE: {cfg.SOLVER.BATCH_SIZE} is not divisible by {world_size} processes x "
            f"SOLVER.ACCUMULATE {accumulate}"
        )
    sampler = _train_sampler(cfg, dataset, start_step)
    mixing = BatchMixing.from_config(cfg)
    first = distributed.get_rank() * sampler.local_batch_size * cfg.DATALOADER.REPEATED_AUG
    add_mixing = functools.partial(_add_mixing, mixing, sampler.start, first, _pins_memory(cfg))
    finish = {"finish": add_mixing} if mixing else {}
    return _build_loader(cfg, dataset, sampler, collate, training=True, **finish)


def build_test_loader(cfg: CfgNode, dataset: ClipDataset) -> FaultTolerantLoader:
    """Build the loader of this process's part of a test set. Each item is a list of batches, one per size."""
    batches = BatchSampler(TestSampler(len(dataset)), cfg.TEST.BATCH_SIZE, drop_last=False)
    return _build_loader(cfg, dataset, batches, collate_by_size, training=False)


def _train_sampler(cfg: CfgNode, dataset: ConcatClipDataset, start_step: int) -> TrainSampler:
    accumulate = cfg.SOLVER.ACCUMULATE
    batches = cfg.SOLVER.BATCH_SIZE // accumulate, steps_per_epoch(cfg, dataset) * accumulate, cfg.SEED
    start = start_step * accumulate
    if dataset.weights is None:
        return TrainSampler(len(dataset), *batches, start)
    sizes = [len(part) for part in dataset.datasets]
    return MixedTrainSampler(sizes, samples_per_epoch(cfg, dataset), *batches, start)


def _build_loader(
    cfg: CfgNode,
    dataset: ClipDataset | ConcatClipDataset,
    batches: Sampler,
    collate_fn: Callable[..., Any],
    training: bool,
    finish: Callable[[int, Any], Any] = lambda _, batch: batch,
) -> FaultTolerantLoader:
    node = cfg.DATALOADER
    return FaultTolerantLoader(
        FaultTolerantDataset(dataset, training, cfg.SEED, node.NUM_WORKERS),
        batches,
        collate_fn,
        BadSampleTracker(dataset.num_files, len(dataset), node.MAX_BAD_FRACTION, in_step=training),
        workers=node.NUM_WORKERS,
        seconds=node.TIMEOUT,
        finish=finish,
        slot_bytes=_batch_bytes(cfg) if training else 0,
        pin_memory=_pins_memory(cfg),
        uses_cuda=get_reader_class(node.READER).uses_cuda,
    )


def _pins_memory(cfg: CfgNode) -> bool:
    """Return whether batches are copied to pinned memory.

    In a run that uses only the CPU this would start CUDA, which takes memory of the GPU.
    """
    return cfg.MODEL.DEVICE in ("auto", "cuda") and torch.cuda.is_available()


def _batch_bytes(cfg: CfgNode) -> int:
    """Return the size of the clips of a training batch of this process."""
    clips = cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATE // distributed.get_world_size()
    frames = cfg.INPUT.NUM_FRAMES + (cfg.MODEL.RECONSTRUCTION.NUM_FRAMES or cfg.INPUT.NUM_FRAMES)
    return clips * cfg.DATALOADER.REPEATED_AUG * frames * 3 * cfg.INPUT.CROP_SIZE**2


def _add_mixing(
    mixing: BatchMixing, start: int, first: int, pin_memory: bool, number: int, batch: Batch
) -> Batch:
    """Add the mixing parameters to a batch with labels.

    Args:
        mixing: draws the parameters from the number of the batch in the run.
        start: number in the run of the loader's first batch.
        first: position of this process's first clip in the batch over all processes.
        pin_memory: copy them to pinned memory, as torch's loader does with the rest of the batch.
        number: number of the batch, counted from the loader's first one.
        batch: the batch.
    """
    if "label" in batch:
        batch["mixing"] = mixing(start + number, len(batch["label"]), first)
        if pin_memory:
            batch["mixing"] = {name: value.pin_memory() for name, value in batch["mixing"].items()}
    return batch


def load_first_test_batch(cfg: CfgNode, dataset: ClipDataset, count: int) -> Batch | None:
    """Load a batch of the first `count` readable test clips, all of one size; None if there are none.

    For a single process. Ignores bad videos, and tries up to ten times as many clips.
    """
    node = cfg.DATALOADER
    keys = [(0, index) for index in range(min(10 * count, len(dataset)))]
    loader = FaultTolerantLoader(
        FaultTolerantDataset(dataset, training=False, seed=cfg.SEED, workers=node.NUM_WORKERS),
        BatchSampler(keys, 1, drop_last=False),
        list,
        bad_samples=None,
        workers=node.NUM_WORKERS,
        seconds=node.TIMEOUT,
        finish=lambda _, samples: samples,
        uses_cuda=get_reader_class(node.READER).uses_cuda,
    )
    with closing(iter(loader)) as batches:
        clips = list(itertools.islice((clip for batch in batches for clip in batch), count))
    return collate(clips) if clips else None


def load_batch_of_step(cfg: CfgNode, dataset: ConcatClipDataset, step: int, count: int) -> Batch:
    """Load the first clips of the training batch of optimizer step `step`, counted from 0.

    Reads at least `count` clips sequentially in this process. The clips of a video are complete, and the
    number of videos is even if pairs are mixed.

    Raises:
        ConfigError: the dataset is smaller than a batch.
        DataError: no video can be read.
    """
    sampler = _train_sampler(cfg, dataset, step)
    videos = -(-count // cfg.DATALOADER.REPEATED_AUG)
    mixing = BatchMixing.from_config(cfg)
    keys = next(iter(sampler))[: videos + videos % 2 if mixing else videos]
    tolerant = FaultTolerantDataset(dataset, training=True, seed=cfg.SEED, workers=0)
    results = [tolerant[key] for key in tqdm(keys, desc="reading", unit="video", disable=None, leave=False)]
    for result in results:
        if result.error:
            raise result.error
    batch = collate([result.samples for result in results])
    return _add_mixing(mixing, sampler.start, 0, False, 0, batch) if mixing else batch
