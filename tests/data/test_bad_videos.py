"""Videos that cannot be read, that crash a loader worker, or that block it."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler

from vmae_det.data.bad_samples import BadSampleTracker, FaultTolerantDataset
from vmae_det.data.loader import build_dataset, build_test_loader, build_train_dataset, build_train_loader
from vmae_det.data.worker_pool import FaultTolerantLoader, WorkerError
from vmae_det.engine.train import run_training
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.readers.base import TimeOutsideVideoError, is_time_inside

SIZE = 12


class Videos:
    """Dataset whose samples are their index. Reading some videos runs an action instead."""

    num_files = SIZE

    def __init__(self, **actions):
        self.actions = {int(name.removeprefix("video")): action for name, action in actions.items()}

    def __len__(self):
        return SIZE

    def path_of(self, index):
        return Path(f"video{index}.mp4")

    def __getitem__(self, key):
        action = self.actions.get(key[1])
        if action:
            action(self.path_of(key[1]))
        return [{"index": key[1]}]


def read_error(path):
    raise DataError("it has no frames", path)


def invalid_config(path):
    raise ConfigError("INPUT.CROP_SIZE: impossible")


def bug(path):
    raise KeyError("a bug")


def crash(path):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)


def outside(path):
    raise TimeOutsideVideoError(f"keyframe 22: {path}: second 22.000 is outside the video", "set.yaml")


def kill_worker(path):
    os.kill(os.getpid(), signal.SIGKILL)


def children():
    """Process ids of the children of this process."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if not path.exists():
        pytest.skip("finds processes through /proc")
    return {int(pid) for pid in path.read_text().split()}


def make_loader(videos, workers=0, training=True, fraction=0.5, seconds=60.0, batch=3):
    return FaultTolerantLoader(
        FaultTolerantDataset(videos, training, 7, workers),
        BatchSampler([(0, index) for index in range(SIZE)], batch, drop_last=False),
        lambda groups: [sample["index"] for group in groups for sample in group],
        BadSampleTracker(SIZE, SIZE, fraction, in_step=training),
        workers=workers,
        seconds=seconds,
        finish=lambda number, batch: (number, batch),
    )


def read(loader):
    return [index for _, batch in loader for index in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_video_is_replaced_and_logged_once(workers, caplog):
    loader = make_loader(Videos(video4=read_error), workers)
    first = read(loader)
    assert first[:4] + first[5:] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert first[4] != 4
    assert read(loader) == first  # the replacement depends on the sample
    assert caplog.text.count("video4.mp4: it has no frames") == 1
    assert list(loader.bad_samples.found) == ["video4.mp4"]


def test_replacements_do_not_depend_on_the_number_of_workers():
    videos = Videos(video1=read_error, video4=read_error, video8=read_error)
    assert read(make_loader(videos)) == read(make_loader(videos, 1)) == read(make_loader(videos, 2))


def test_unreadable_video_is_skipped_in_testing(caplog):
    loader = make_loader(Videos(video0=read_error, video4=read_error), training=False, batch=1)
    assert read(loader) == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert "video0.mp4: it has no frames" in caplog.text


def test_too_many_bad_videos_stop_the_run_with_a_list():
    videos = Videos(video2=read_error, video5=read_error, video7=read_error)
    with pytest.raises(DataError) as error:
        read(make_loader(videos, fraction=2 / SIZE))
    text = str(error.value)
    assert text.startswith("3 of 12 videos cannot be read, more than DATALOADER.MAX_BAD_FRACTION 0.166667")
    assert all(f"video{n}.mp4: it has no frames" in text for n in (2, 5, 7))
    with pytest.raises(DataError, match="2 of 12 videos"):  # of one batch
        read(make_loader(videos, fraction=0.0))


def test_keyframe_outside_its_video_does_not_count_as_a_bad_video(caplog):
    loader = make_loader(Videos(video2=read_error, video4=outside), fraction=1 / SIZE)
    assert 4 not in read(loader)
    assert (loader.bad_samples.count("video"), loader.bad_samples.count("keyframe")) == (1, 1)
    assert "skipped: set.yaml: keyframe 22: video4.mp4" in caplog.text
    with pytest.raises(
        DataError, match=r"^1 of 12 keyframes are outside their videos, .*: set.yaml: keyframe 22"
    ):
        read(make_loader(Videos(video4=outside), fraction=0.0))


@pytest.mark.parametrize("rate", [8, 24, 25, 30, 30000 / 1001])
def test_video_ends_one_frame_after_its_last_frame_starts(rate):
    last = 299 / rate
    assert is_time_inside(300 / rate, last, rate)
    assert is_time_inside(last + 1 / rate, last, rate)
    assert not is_time_inside(last + 1.1 / rate, last, rate)
    assert is_time_inside(-1 / rate, last, rate)
    assert not is_time_inside(-1.1 / rate, last, rate)


def test_dataset_without_a_readable_video_stops_the_run():
    videos = Videos(**{f"video{n}": read_error for n in range(SIZE)})
    with pytest.raises(DataError, match="100 consecutive clips cannot be read"):
        read(make_loader(videos, fraction=1.0))
    assert read(make_loader(videos, fraction=1.0, training=False)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_other_user_errors_stop_the_run_unchanged(workers):
    with pytest.raises(ConfigError, match=r"^INPUT\.CROP_SIZE: impossible$"):
        read(make_loader(Videos(video5=invalid_config), workers))


def test_program_error_keeps_its_traceback():
    with pytest.raises(KeyError, match="a bug"):
        read(make_loader(Videos(video5=bug), workers=1))


@pytest.mark.parametrize(
    ("action", "seconds", "reason"),
    [(crash, 60.0, "crashes the reader (SIGSEGV)"), (hang, 2.0, "hangs: not read in 2 s")],
)
def test_video_that_crashes_or_blocks_a_worker_loses_one_sample(action, seconds, reason, caplog):
    batches = list(make_loader(Videos(video4=action, video10=action), workers=2, seconds=seconds))
    assert [number for number, _ in batches] == [0, 1, 2, 3]
    order = [index for _, batch in batches for index in batch]
    assert [index for position, index in enumerate(order) if position not in (4, 10)] == [
        0,
        1,
        2,
        3,
        *range(5, 10),
        11,
    ]
    assert not {4, 10} & {order[4], order[10]}
    for number in (4, 10):
        assert caplog.text.count(f"video{number}.mp4: {reason}") == 1


def test_killed_worker_stops_the_run_with_its_video():
    with pytest.raises(WorkerError) as error:
        read(make_loader(Videos(video4=kill_worker), workers=2))
    assert "was killed by SIGKILL while reading video4.mp4; if memory is short" in str(error.value)


def test_worker_killed_between_samples_stops_the_run():
    loader = make_loader(Videos(), workers=1, batch=1)
    loader.batches = BatchSampler([(0, index % SIZE) for index in range(200)], 1, drop_last=False)
    before, batches = children(), iter(loader)
    next(batches)
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="was killed by SIGKILL"):
        list(batches)


def test_closed_iterator_stops_its_workers():
    before, batches = children(), iter(make_loader(Videos(), workers=2))
    next(batches)
    assert len(children() - before) == 2
    batches.close()
    assert children() == before


@pytest.fixture
def damaged(mini_ava, tmp_path):
    """A folder of videos, one of which is truncated."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in sorted((mini_ava / "unlabelled").glob("*.mp4"))[:2]:
        for copy in "abc":
            (folder / f"{path.stem}_{copy}.mp4").write_bytes(path.read_bytes())
    cut = sorted(folder.iterdir())[0]
    cut.write_bytes(cut.read_bytes()[:1000])
    return folder


def test_training_skips_a_damaged_video(tiny_cfg, damaged, caplog):
    options = ("DATASETS.TRAIN", (str(damaged),), "DATALOADER.CLIPS_PER_VIDEO", 2, "SOLVER.BATCH_SIZE", 3)
    cfg = tiny_cfg("pretrain", *options, "DATALOADER.MAX_BAD_FRACTION", 0.2)
    run_training(cfg)
    cut = sorted(damaged.iterdir())[0]
    log = (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert log.count(f"skipped: {cut}: cannot be read as a video") == 1
    with pytest.raises(DataError, match=r"1 of 6 videos cannot be read.*MAX_BAD_FRACTION 0\.01"):
        run_training(tiny_cfg("pretrain", *options, "OUTPUT_DIR", cfg.OUTPUT_DIR + "_strict"))


def test_samples_of_a_resumed_run_with_damaged_videos(tiny_cfg, damaged):
    options = ("DATASETS.TRAIN", (str(damaged),), "DATALOADER.CLIPS_PER_VIDEO", 2, "SOLVER.BATCH_SIZE", 2)
    cfg = tiny_cfg("pretrain", *options, "DATALOADER.MAX_BAD_FRACTION", 0.2)
    dataset = build_train_dataset(cfg, "pretraining")
    unbroken = iter(build_train_loader(cfg, dataset))
    expected = [next(unbroken) for _ in range(9)]
    for start, workers in ((3, 0), (5, 2)):
        cfg.DATALOADER.NUM_WORKERS = workers
        resumed = iter(build_train_loader(cfg, dataset, start))
        for batch in expected[start:]:
            other = next(resumed)
            assert torch.equal(batch["video"], other["video"])
            assert torch.equal(batch["seed"], other["seed"])
        resumed.close()


def test_test_set_with_an_unreadable_video(tiny_cfg, mini_ava, tmp_path, caplog):
    lines = (mini_ava / "annotations" / "clips_val.csv").read_text().splitlines()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "list.csv").write_text("\n".join([*lines, f"{tmp_path / 'empty.mp4'} 0"]))
    (tmp_path / "set.yaml").write_text(f"type: classification\nvideos: {mini_ava}\nannotations: list.csv\n")
    cfg = tiny_cfg("finetune", "DATALOADER.MAX_BAD_FRACTION", 0.5, "TEST.NUM_CLIPS", 1, "TEST.NUM_CROPS", 1)
    dataset = build_dataset(cfg, "classification", str(tmp_path / "set.yaml"), training=False)
    batches = [batch for group in build_test_loader(cfg, dataset) for batch in group]
    read_videos = np.concatenate([batch["video_index"].numpy() for batch in batches])
    assert sorted(read_videos) == list(range(len(lines)))
    assert "empty.mp4" in caplog.text
