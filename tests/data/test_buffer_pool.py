"""The shared-memory buffer pool of the loader workers."""

import gc
import multiprocessing
import pickle
import sys

import pytest
import torch

from vmae_det.data.buffer_pool import BufferPool
from vmae_det.data.loader import build_train_dataset, build_train_loader
from vmae_det.data.worker_pool import _shared_pages
from vmae_det.video.readers import PyAVReader


def clips(value, count=2, size=6):
    return [torch.full((3, size), value + number, dtype=torch.uint8) for number in range(count)]


def send(pool, worker=0, **content):
    """What the training process receives when a loader worker puts clips into the pool."""
    return pickle.loads(pickle.dumps(pool.put(content, worker)))


def is_in_pool(pool, tensor):
    start = pool._memory.data_ptr()
    return start <= tensor.data_ptr() < start + len(pool._memory)


def test_batch_is_received_unchanged():
    pool = BufferPool(slot_bytes=100, slots=2, workers=2)
    batch = send(pool, worker=1, video=clips(3), target=clips(9, size=4))
    assert batch["video"].tolist() == torch.stack(clips(3)).tolist()
    assert batch["target"].tolist() == torch.stack(clips(9, size=4)).tolist()
    assert is_in_pool(pool, batch["video"])
    assert is_in_pool(pool, batch["target"])


def test_slot_becomes_free_when_all_views_are_deleted():
    pool = BufferPool(slot_bytes=100, slots=1, workers=1)
    batch = send(pool, video=clips(3))
    address = batch["video"].data_ptr()
    part = batch.pop("video")[1:, 0]
    other = pool.put({"video": clips(5)}, 0)["video"]
    assert torch.is_tensor(other)  # sent by torch
    assert part.tolist() == [[4] * 6]
    del part
    assert send(pool, video=clips(7))["video"].data_ptr() == address


def test_workers_have_separate_slots():
    pool = BufferPool(slot_bytes=36, slots=1, workers=2)
    first, second = (send(pool, worker=worker, video=clips(10 * worker))["video"] for worker in (0, 1))
    assert first.tolist() == torch.stack(clips(0)).tolist()
    assert second.tolist() == torch.stack(clips(10)).tolist()


def test_batch_that_does_not_fit_is_sent_by_torch():
    pool = BufferPool(slot_bytes=35, slots=1, workers=1)
    assert torch.equal(pool.put({"video": clips(1)}, 0)["video"], torch.stack(clips(1)))


@pytest.mark.parametrize("config", ["pretrain", "finetune"])
def test_kept_batches_are_not_overwritten(tiny_cfg, config):
    batches = []
    for workers in (0, 2):
        cfg = tiny_cfg(config, "DATALOADER.NUM_WORKERS", workers, "DATALOADER.REPEATED_AUG", 2)
        task = {"pretrain": "pretraining", "finetune": "classification"}[config]
        loader = iter(build_train_loader(cfg, build_train_dataset(cfg, task)))
        batches.append([next(loader)["video"] for _ in range(12)])  # more than there are slots
        loader.close()
    for single, shared in zip(*batches):
        assert torch.equal(single, shared)


@pytest.mark.parametrize("frozen", [False, True])
def test_only_objects_that_the_program_had_frozen_stay_frozen(frozen):
    gc.unfreeze()
    if frozen:
        gc.freeze()
    try:
        with _shared_pages():
            assert gc.get_freeze_count() > 0
        assert (gc.get_freeze_count() > 0) == frozen
    finally:
        gc.freeze()  # as at the start of the session


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always spawn workers")
def test_readers_that_use_cuda_are_read_in_spawned_workers(tiny_cfg, monkeypatch, preloaded_processes):
    cfg = tiny_cfg("pretrain", "DATALOADER.NUM_WORKERS", 1)
    batches = []
    for uses_cuda in (False, True):
        monkeypatch.setattr(PyAVReader, "uses_cuda", uses_cuda)
        loader = build_train_loader(cfg, build_train_dataset(cfg, "pretraining"))
        assert loader.uses_cuda == uses_cuda
        iterator = iter(loader)
        batches.append([next(iterator)["video"] for _ in range(2)])
        workers = multiprocessing.active_children()
        assert [type(worker).__name__ for worker in workers] == [
            "SpawnProcess" if uses_cuda else "ForkProcess"
        ]
        iterator.close()
    assert all(torch.equal(forked, spawned) for forked, spawned in zip(*batches))
