"""Memory that loader processes share with the training process and use again."""

import pickle

import pytest
import torch

from vmae_det.data.buffer_pool import BufferPool
from vmae_det.data.loader import build_train_dataset, build_train_loader


def clips(value, count=2, size=6):
    return [torch.full((3, size), value + number, dtype=torch.uint8) for number in range(count)]


def sent(pool, worker=0, **content):
    """What arrives of what a loader process puts into an pool."""
    return pickle.loads(pickle.dumps(pool.put(content, worker)))


def lies_in(pool, tensor):
    start = pool._memory.data_ptr()
    return start <= tensor.data_ptr() < start + len(pool._memory)


def test_a_batch_arrives_as_it_was_put():
    pool = BufferPool(slot_bytes=100, slots=2, workers=2)
    batch = sent(pool, worker=1, video=clips(3), target=clips(9, size=4))
    assert batch["video"].tolist() == torch.stack(clips(3)).tolist()
    assert batch["target"].tolist() == torch.stack(clips(9, size=4)).tolist()
    assert lies_in(pool, batch["video"])
    assert lies_in(pool, batch["target"])


def test_a_slot_is_free_when_no_view_is_left():
    pool = BufferPool(slot_bytes=100, slots=1, workers=1)
    batch = sent(pool, video=clips(3))
    place = batch["video"].data_ptr()
    part = batch.pop("video")[1:, 0]
    other = pool.put({"video": clips(5)}, 0)["video"]
    assert torch.is_tensor(other)  # travels as torch sends it
    assert part.tolist() == [[4] * 6]
    del part
    assert sent(pool, video=clips(7))["video"].data_ptr() == place


def test_processes_have_slots_of_their_own():
    pool = BufferPool(slot_bytes=36, slots=1, workers=2)
    first, second = (sent(pool, worker=worker, video=clips(10 * worker))["video"] for worker in (0, 1))
    assert first.tolist() == torch.stack(clips(0)).tolist()
    assert second.tolist() == torch.stack(clips(10)).tolist()


def test_what_does_not_fit_travels_otherwise():
    pool = BufferPool(slot_bytes=35, slots=1, workers=1)
    assert torch.equal(pool.put({"video": clips(1)}, 0)["video"], torch.stack(clips(1)))


@pytest.mark.parametrize("config", ["pretrain", "finetune"])
def test_batches_that_are_kept_stay_as_they_are(tiny_cfg, config):
    kept = []
    for workers in (0, 2):
        cfg = tiny_cfg(config, "DATALOADER.NUM_WORKERS", workers, "DATALOADER.REPEATED_AUG", 2)
        task = {"pretrain": "pretraining", "finetune": "classification"}[config]
        loader = iter(build_train_loader(cfg, build_train_dataset(cfg, task)))
        kept.append([next(loader)["video"] for _ in range(12)])  # more than the slots there are
        loader.close()
    for alone, shared in zip(*kept):
        assert torch.equal(alone, shared)
