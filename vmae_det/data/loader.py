"""Samplers, collation and loaders, for one process and many.

Step s of a run takes the same samples whatever the number of processes and workers: the order of an
epoch is one
permutation, cut into batches, and every process takes its share of each batch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
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
from vmae_det.data.datasets import DATASET_REGISTRY, ClipDataset, Sample
from vmae_det.data.mixup import BatchMixing
from vmae_det.data.samplers import TestSampler, TrainSampler
from vmae_det.data.worker_pool import FaultTolerantLoader
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.registry import lookup

Batch = dict[str, Any]

# These become tensors with the batch in front; all else stays a list with an entry per clip.
CLIPS = ("video", "target")
STACKED = (*CLIPS, "seed", "index", "label", "video_index")


def collate(samples: list[list[Sample]], arena: BufferPool | None = None) -> Batch:
    """A batch of clips of one size: tensors stacked, lists for what differs in length.

    Args:
        arena: where a loader process puts the clips.
    """
    flat = [sample for group in samples for sample in group]
    batch: Batch = {key: [sample[key] for sample in flat] for key in flat[0]}
    clips = {key: batch.pop(key) for key in CLIPS if key in batch} if arena is not None else {}
    for key in STACKED:
        if key in batch:
            column = batch[key]
            batch[key] = torch.stack(column) if torch.is_tensor(column[0]) else torch.tensor(column)
    if arena is None:
        return batch
    return pickle_as_bytes(batch) | arena.put(clips, torch.utils.data.get_worker_info().id)


def collate_by_size(samples: list[list[Sample]]) -> list[Batch]:
    """Batches of one frame size each, so that no clip is padded because of another one beside it."""
    by_size: dict[torch.Size, list[list[Sample]]] = {}
    for group in samples:
        by_size.setdefault(group[0]["video"].shape, []).append(group)
    return [collate(groups) for groups in by_size.values()]


def build_dataset(
    cfg: CfgNode, task: str, name: str, training: bool, classes: ModelClasses | None = None
) -> ClipDataset:
    """The dataset called `name` as the dataset class of a task takes it.

    Args:
        classes: of the model; None: not known, those of the dataset.

    Raises:
        ConfigError: the dataset has classes that the model lacks, or the config another number of them.
    """
    dataset = _build_dataset(cfg, task, name, training)
    _use_classes([dataset], classes)
    return dataset


def _build_dataset(cfg: CfgNode, task: str, name: str, training: bool) -> ClipDataset:
    """Return the dataset of the class registered for "TASK/TYPE", otherwise of the class of the task."""
    spec = get_dataset(name, cfg.DATASETS.ROOT)
    own = f"{task}/{spec.type}"
    registered_name = own if own in DATASET_REGISTRY else task
    return lookup(DATASET_REGISTRY, registered_name, "MODEL.META_ARCHITECTURE (its task)")(
        cfg, spec, training
    )


def _use_classes(datasets: list[ClipDataset], classes: ModelClasses | None) -> ModelClasses | None:
    """Label samples of datasets alike: with `classes`, else with those of the first that names its own."""
    for dataset in datasets:
        if classes is None and dataset.label_map is not None:
            classes = ModelClasses(dataset.label_map, str(dataset.spec.label_map))
    if classes is not None:
        for dataset in datasets:
            dataset.use_classes(classes)
    return classes


class ConcatClipDataset(torch.utils.data.Dataset):
    """Several datasets one after the other, with indices that run on.

    Args:
        classes: that their samples are labelled with; None where the task has none, or they have no names.
    """

    def __init__(self, datasets: list[ClipDataset], classes: ModelClasses | None = None) -> None:
        self.datasets = datasets
        self.classes = classes
        self.ends = np.cumsum([len(dataset) for dataset in datasets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def num_files(self) -> int:
        """Video files of all of them."""
        return sum(dataset.num_files for dataset in self.datasets)

    def __getitem__(self, key: tuple[int, int]) -> list[Sample]:
        epoch, index = key
        dataset, index = self.place(index)
        return dataset[epoch, index]

    def path_of(self, index: int) -> Path:
        """The video that a sample is cut from."""
        dataset, index = self.place(index)
        return dataset.path_of(index)

    def place(self, index: int) -> tuple[ClipDataset, int]:
        """The dataset that a sample is of, and its index there."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        start = self.ends[number] - len(self.datasets[number])
        return self.datasets[number], int(index - start)


def steps_per_epoch(cfg: CfgNode, dataset: Any) -> int:
    """Optimizer steps of an epoch; ConfigError where the dataset is smaller than a batch."""
    if len(dataset) < cfg.SOLVER.BATCH_SIZE:
        raise ConfigError(
            f"SOLVER.BATCH_SIZE: {cfg.SOLVER.BATCH_SIZE}, but DATASETS.TRAIN {cfg.DATASETS.TRAIN} has only "
            f"{len(dataset)} clips an epoch; set it to {len(dataset)} or less"
        )
    return len(dataset) // cfg.SOLVER.BATCH_SIZE


def build_train_dataset(cfg: CfgNode, task: str, classes: ModelClasses | None = None) -> ConcatClipDataset:
    """The datasets of DATASETS.TRAIN, joined.

    Args:
        classes: of a model that goes on training; None: of the first dataset that names its own.
    """
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN: names no dataset; give one such as \"('mini_ava_train',)\"")
    datasets = [_build_dataset(cfg, task, name, training=True) for name in cfg.DATASETS.TRAIN]
    return ConcatClipDataset(datasets, _use_classes(datasets, classes))


def build_train_loader(cfg: CfgNode, dataset: ConcatClipDataset, start_step: int = 0) -> FaultTolerantLoader:
    """Endless training batches for this process, from optimizer step `start_step` on."""
    world = distributed.get_world_size()
    accumulate = cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.BATCH_SIZE % (accumulate * world):
        raise ConfigError(
            f"SOLVER.BATCH_SIZE: {cfg.SOLVER.BATCH_SIZE} is not divisible by {world} processes x "
            f"SOLVER.ACCUMULATE {accumulate}"
        )
    start = start_step * accumulate
    sampler = TrainSampler(
        len(dataset),
        cfg.SOLVER.BATCH_SIZE // accumulate,
        steps_per_epoch(cfg, dataset) * accumulate,
        cfg.SEED,
        start=start,
    )
    mixing = BatchMixing.from_config(cfg)
    first = distributed.get_rank() * sampler.share * cfg.DATALOADER.REPEATED_AUG
    finish = {"finish": functools.partial(_mix, mixing, start, first)} if mixing else {}
    return _loader(cfg, dataset, sampler, collate, training=True, **finish)


def build_test_loader(cfg: CfgNode, dataset: ClipDataset) -> FaultTolerantLoader:
    """This process's share of a test set, once through; each item is a list of batches, one per frame
    size."""
    batches = BatchSampler(TestSampler(len(dataset)), cfg.TEST.BATCH_SIZE, drop_last=False)
    return _loader(cfg, dataset, batches, collate_by_size, training=False)


def load_first_test_batch(cfg: CfgNode, dataset: ClipDataset, count: int) -> Batch | None:
    """A batch of the first test clips of one size that can be read; None where there are none.

    For one process alone, which takes no note of bad videos; it tries ten times as many clips.
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
    )
    with closing(iter(loader)) as clips:
        found = list(itertools.islice((clip for group in clips for clip in group), count))
    return collate(found) if found else None


def load_batch_of_step(cfg: CfgNode, dataset: ConcatClipDataset, step: int, count: int) -> Batch:
    """The first clips of the batch that training takes at optimizer step `step`, counted from 0.

    They are read in this process, one after the other; at least `count`, in whole videos, an even number of
    them where pairs are mixed.

    Raises:
        ConfigError: the dataset is smaller than a batch.
        DataError: no video can be read.
    """
    node, accumulate = cfg.SOLVER, cfg.SOLVER.ACCUMULATE
    size = node.BATCH_SIZE // accumulate
    start = step * accumulate
    sampler = TrainSampler(
        len(dataset), size, steps_per_epoch(cfg, dataset) * accumulate, cfg.SEED, start=start
    )
    videos = -(-count // cfg.DATALOADER.REPEATED_AUG)
    mixing = BatchMixing.from_config(cfg)
    keys = next(iter(sampler))[: videos + videos % 2 if mixing else videos]
    tolerant = FaultTolerantDataset(dataset, training=True, seed=cfg.SEED, workers=0)
    answers = [tolerant[key] for key in tqdm(keys, desc="reading", unit="video", disable=None, leave=False)]
    for answer in answers:
        if answer.error:
            raise answer.error
    batch = collate([answer.samples for answer in answers])
    return _mix(mixing, start, 0, 0, batch) if mixing else batch


def _loader(
    cfg: CfgNode,
    dataset: ClipDataset | ConcatClipDataset,
    batches: Sampler,
    collate_fn: Callable[[list], Any],
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
        slot_bytes=_bytes_of_batch(cfg) if training else 0,
    )


def _bytes_of_batch(cfg: CfgNode) -> int:
    """What the clips of a training batch of this process take."""
    clips = cfg.SOLVER.BATCH_SIZE // cfg.SOLVER.ACCUMULATE // distributed.get_world_size()
    frames = cfg.INPUT.NUM_FRAMES + (cfg.MODEL.RECONSTRUCTION.NUM_FRAMES or cfg.INPUT.NUM_FRAMES)
    return clips * cfg.DATALOADER.REPEATED_AUG * frames * 3 * cfg.INPUT.CROP_SIZE**2


def _mix(mixing: BatchMixing, start: int, first: int, number: int, batch: Batch) -> Batch:
    """Give a batch with labels what it is mixed by; what is drawn follows from its number in the run.

    Args:
        start: number in the run of the loader's first batch.
        first: place of this process's first clip among those of all processes.
        number: of the batch, from the loader's first one on.
    """
    if "label" in batch:
        batch["mixing"] = mixing(start + number, len(batch["label"]), first)
    return batch
