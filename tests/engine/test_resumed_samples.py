"""After resuming, the order and content of samples are those of an uninterrupted run.

The digest of a clip covers all of its inputs to the model, and the clip that it is mixed with. All sets
contain a video that cannot be read.
"""

import hashlib
import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from odd_videos import copy_detection_set, picture, truncated
from torch.utils.data import get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vmae_det.data.datasets import ClipDataset
from vmae_det.data.loader import build_train_dataset, build_train_loader
from vmae_det.engine.launch import launch
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.modeling import model_class
from vmae_det.utils import distributed
from vmae_det.utils.errors import DataError

pytestmark = pytest.mark.usefixtures("preloaded_processes")

TASKS = ["pretrain", "finetune", "detect"]
READ = 7  # steps; an epoch has three or more


def digests(batch):
    """Return a digest of each clip, which does not depend on the process."""
    clips = [
        _digest({key: batch[key][i] for key in batch if key != "mixing"}) for i in range(len(batch["video"]))
    ]
    if "mixing" not in batch:
        return clips
    partners = [clips[partner] for partner in batch["mixing"]["partner"].tolist()]
    mixing = [
        _digest({key: batch["mixing"][key][i] for key in ("box", "weight")}) for i in range(len(partners))
    ]
    return [" ".join(parts) for parts in zip(clips, partners, mixing)]


def _digest(values):
    digest = hashlib.sha256()
    for key in sorted(values):
        array = np.ascontiguousarray(values[key])
        digest.update(f"{key} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


@pytest.fixture
def bad_video_cfg(tiny_cfg, mini_ava, tmp_path):
    """bad_video_cfg(TASK, KEY, VALUE, ...): training on a dataset with an unreadable video."""

    def make(task, *options):
        folder = tmp_path / task
        if not folder.exists():
            SETS[task](mini_ava, folder)
        train = str(folder / ("videos" if task == "pretrain" else "set.yaml"))
        own = {
            "pretrain": (
                *("DATALOADER.REPEATED_AUG", 2, "DATALOADER.CLIPS_PER_VIDEO", 2, "SOLVER.ACCUMULATE", 2),
            ),
            "finetune": (
                *("INPUT.RAND_AUGMENT", "rand-m9-mstd0.5-inc1", "INPUT.RANDOM_ERASING", 0.5),
                *("INPUT.MIXUP", 0.8, "INPUT.CUTMIX", 1.0, "DATALOADER.REPEATED_AUG", 2),
            ),
            "detect": ("INPUT.COLOR_JITTER", 0.4, "DATALOADER.CACHE_MB", 1),
        }
        known = ("DATASETS.TRAIN", (train,), "DATASETS.TEST", (), "DATALOADER.MAX_BAD_FRACTION", 0.5)
        return tiny_cfg(task, *known, *own[task], *options)

    return make


def make_unlabelled(mini_ava, folder):
    (folder / "videos").mkdir(parents=True)
    for path, copy in itertools.product(sorted((mini_ava / "unlabelled").glob("*.mp4"))[:2], "bcd"):
        (folder / "videos" / f"{path.stem}_{copy}.mp4").write_bytes(path.read_bytes())
    truncated(folder / "videos" / "a")


def make_labelled(mini_ava, folder):
    folder.mkdir()
    lines = (mini_ava / "annotations" / "clips_train.csv").read_text().splitlines()[:11]
    (folder / "list.csv").write_text("\n".join([*lines, f"{truncated(folder / 'cut')} 0"]))
    (folder / "set.yaml").write_text(f"type: classification\nvideos: {mini_ava}\nannotations: list.csv\n")


def make_detection(mini_ava, folder):
    _, copies = copy_detection_set(mini_ava, folder)
    picture(copies[0])


SETS = {"pretrain": make_unlabelled, "finetune": make_labelled, "detect": make_detection}


def read(cfg, start, steps, monkeypatch, rank=0, world=1):
    """Return digests of the clips of each forward pass of steps `start` + 1 to `start` + `steps`."""
    dataset = build_train_dataset(cfg, model_class(cfg).task)
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "get_rank", lambda: rank)
        patch.setattr(distributed, "get_world_size", lambda: world)
        loader = build_train_loader(cfg, dataset, start)
    batches = iter(loader)
    found = [digests(batch) for batch in itertools.islice(batches, steps * cfg.SOLVER.ACCUMULATE)]
    batches.close()
    return found, {name: bad.reason for name, bad in loader.bad_samples.found.items()}


def join(parts):
    """Merge the forward passes of all processes."""
    return [[clip for part in parts for clip in part[number]] for number in range(len(parts[0]))]


@pytest.mark.parametrize("task", TASKS)
def test_resumed_samples_are_those_of_an_uninterrupted_run(bad_video_cfg, monkeypatch, task):
    cfg = bad_video_cfg(task)
    unbroken, bad = read(cfg, 0, READ, monkeypatch)
    assert len(bad) == 1  # its clips were replaced
    assert len({clip for clips in unbroken for clip in clips}) > 2 * READ
    # Without worker processes all combinations; with them one of each.
    for workers, world, start in [(0, 1, 1), (0, 2, 1), (0, 1, 5), (0, 2, 5), (3, 1, 1), (1, 2, 5)]:
        cfg.DATALOADER.NUM_WORKERS = workers
        parts = [read(cfg, start, 2, monkeypatch, rank, world)[0] for rank in range(world)]
        first = start * cfg.SOLVER.ACCUMULATE
        assert join(parts) == unbroken[first : first + len(parts[0])], (workers, world, start)


@pytest.mark.parametrize("task", TASKS)
def test_resumed_samples_after_a_crash_of_a_loader_worker(bad_video_cfg, monkeypatch, task):
    """A video that crashes its reader is replaced like an unreadable one, before and after resuming."""
    cfg = bad_video_cfg(task)
    open_soundly = ClipDataset.open
    dataset = build_train_dataset(cfg, model_class(cfg).task).datasets[0]
    crashing = dataset.path_of(len(dataset) * 2 // 3)

    def open_or_crash(self, path):
        if path == crashing and get_worker_info():
            os.kill(os.getpid(), signal.SIGSEGV)
        if path == crashing:
            raise DataError("crashes its reader", path)
        return open_soundly(self, path)

    monkeypatch.setattr(ClipDataset, "open", open_or_crash)
    # Check the workers more often than every five seconds, to notice a crash sooner.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    expected, bad = read(cfg, 0, READ, monkeypatch)
    assert len(bad) == 2
    cfg.DATALOADER.NUM_WORKERS = 2
    unbroken, bad = read(cfg, 0, READ, monkeypatch)
    assert "crashes the reader (SIGSEGV)" in bad[str(crashing)]
    assert unbroken == expected
    resumed, bad = read(cfg, 1, READ - 1, monkeypatch)
    assert "crashes the reader (SIGSEGV)" in bad[str(crashing)]
    assert resumed == expected[cfg.SOLVER.ACCUMULATE :]


class Record(HookBase):
    """Write the digests of all batches of the trainer."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def before_train(self):
        path = self.folder / f"{self.trainer.step}_{distributed.get_rank()}.jsonl"
        self.trainer.batches = self.recorded(self.trainer.batches, path)

    def recorded(self, batches, path):
        for batch in batches:
            with path.open("a") as file:
                file.write(json.dumps(digests(batch)) + "\n")
            yield batch


class Stop(HookBase):
    """Interrupt the first process after a number of steps."""

    def __init__(self, step):
        self.step = step

    def before_step(self):
        if self.trainer.step == self.step - 1 and distributed.is_main_process():
            os.kill(os.getpid(), signal.SIGINT)


def test_two_interrupted_processes_resume_with_the_samples_of_one(bad_video_cfg, monkeypatch, tmp_path):
    cfg = bad_video_cfg("finetune", "SOLVER.EPOCHS", 2)
    unbroken, _ = read(cfg, 0, 6, monkeypatch)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert launch(run_training, (cfg, False, [Record(tmp_path), Stop(4)]), num_processes=2) == 130
    assert launch(run_training, (cfg, True, [Record(tmp_path)]), num_processes=2) == 0
    parts = [[(tmp_path / f"{start}_{rank}.jsonl").read_text() for rank in range(2)] for start in (0, 4)]
    taken = [join([[json.loads(line) for line in part.splitlines()] for part in parts_]) for parts_ in parts]
    assert taken == [unbroken[:4], unbroken[4:]]
