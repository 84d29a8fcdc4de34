"""Entire runs on folders with every kind of bad and odd file, and runs whose loader worker is killed."""

import json
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import av
import pytest
from interrupts import StopAfter
from numbered_videos import Recipe, write_numbered
from odd_videos import ODD, REASONS, UNREADABLE, copy_detection_set
from preloaded import PreloadedCommand

from vmae_det.cli.main import main
from vmae_det.cli.train import train_or_evaluate
from vmae_det.data.datasets import ClipDataset
from vmae_det.engine.hooks import Interrupted
from vmae_det.engine.launch import launch
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.visualization.training_hook import picture_hooks

pytestmark = pytest.mark.usefixtures("preloaded_processes")

GONE = "no such video file"
PATIENCE = 300.0  # seconds until a test gives up, on a busy machine


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with files of each kind: `bad`, which sort first, `good` and `odd`."""
    folder = tmp_path_factory.mktemp("files")
    for kind in ("bad", "good", "odd"):
        (folder / kind).mkdir()
    for name, make in UNREADABLE.items():
        make(folder / "bad" / name)
    for name, make in ODD.items():
        make(folder / "odd" / name)
    for number in range(6):
        write_numbered(folder / "good" / f"plain{number}", Recipe())
    return folder


@pytest.fixture
def videos(files, tmp_path):
    """A copy of that folder that a test may change."""
    folder = tmp_path / "videos"
    for path in files.rglob("*.*"):
        copy = folder / path.relative_to(files)
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, copy)
    return folder


@pytest.fixture
def used(monkeypatch, tmp_path):
    """used(): how many samples each video produced, over all processes."""
    record, take = tmp_path / "used.txt", ClipDataset.__getitem__

    def remember(dataset, key):
        samples = take(dataset, key)
        with record.open("a") as file:
            file.write(f"{dataset.path_of(key[1]).name}\n")
        return samples

    monkeypatch.setattr(ClipDataset, "__getitem__", remember)
    return lambda: Counter(record.read_text().splitlines())


class Vanish(HookBase):
    """Delete files after a number of steps."""

    def __init__(self, step, *paths):
        self.step = step
        self.paths = paths

    def after_step(self):
        if self.trainer.step == self.step:
            for path in self.paths:
                path.unlink()


def left_out(cfg):
    """The reason of each `skipped` in the log; each path is named once."""
    log = (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    found = re.findall(r"skipped: (.+?): (.*)", log)
    reasons = {Path(path).name: reason for path, reason in found}
    assert len(found) == len(reasons)
    return reasons


def assert_named(reasons, gone=()):
    """Check that exactly the bad files are listed, with their reasons."""
    assert set(reasons) == {f"{name}.mp4" for name in UNREADABLE} | set(gone)
    for name, reason in REASONS.items():
        assert re.match(f"cannot be read as a video: .*({reason})", reasons[f"{name}.mp4"]), name
    assert all(reasons[name] == GONE for name in gone)


def last_metrics(cfg):
    return json.loads((Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text().splitlines()[-1])


def folder_cfg(tiny_cfg, folder, *options):
    known = ("DATASETS.TRAIN", (str(folder),), "SOLVER.BATCH_SIZE", 7, "DATALOADER.MAX_BAD_FRACTION", 0.6)
    return tiny_cfg("pretrain", *known, "DATALOADER.CLIPS_PER_VIDEO", 1, *options)


@pytest.mark.parametrize("workers", [0, 2])
def test_pre_training_on_files_of_every_kind(tiny_cfg, videos, used, workers):
    """21 files: 8 are bad from the start, and two more are deleted in the first epoch of 3 steps."""
    gone = [videos / "good" / "plain1.mp4", videos / "odd" / "rotated.mp4"]
    cfg = folder_cfg(tiny_cfg, videos, "SOLVER.EPOCHS", 7, "DATALOADER.NUM_WORKERS", workers)
    run_training(cfg, hooks=[*picture_hooks(cfg), Vanish(1, *gone)])
    assert_named(left_out(cfg), gone=[path.name for path in gone])
    assert "skipped 10 of 21 videos" in (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert last_metrics(cfg)["bad_videos"] == 10
    assert (Path(cfg.OUTPUT_DIR) / "reconstruction.png").exists()
    taken = used()
    assert not [name for name in taken if Path(name).stem in UNREADABLE]
    for path in [*videos.glob("good/*"), *videos.glob("odd/*")]:
        assert taken[path.name] >= 7, path.name


def test_a_resumed_run_finds_the_bad_files_again(tiny_cfg, videos):
    cfg = folder_cfg(tiny_cfg, videos, "SOLVER.EPOCHS", 2)
    with pytest.raises(Interrupted):
        run_training(cfg, hooks=[StopAfter(3)])
    assert_named(left_out(cfg))
    (Path(cfg.OUTPUT_DIR) / "log.txt").unlink()
    run_training(cfg, resume=True)
    assert_named(left_out(cfg))
    assert last_metrics(cfg)["bad_videos"] == 8


def test_too_many_bad_files_stop_the_command_with_their_list(tiny_cfg, videos, tmp_path, capfd):
    cfg = folder_cfg(tiny_cfg, videos, "DATALOADER.MAX_BAD_FRACTION", 0.1, "SOLVER.BATCH_SIZE", 21)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert main(["train", "--config-file", str(tmp_path / "config.yaml")]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vmae-det: ")]
    assert "8 of 21 videos cannot be read, more than DATALOADER.MAX_BAD_FRACTION 0.1 allows: " in line
    assert len(re.findall(r"videos/bad/\w+\.mp4: cannot be read as a video: ", line)) == 5
    assert line.endswith("and 3 more, see the log")
    assert_named(left_out(cfg))


def test_several_processes_name_each_bad_file_once(tiny_cfg, videos):
    cfg = folder_cfg(tiny_cfg, videos, "SOLVER.BATCH_SIZE", 6, "SOLVER.EPOCHS", 3)
    assert launch(run_training, (cfg,), num_processes=2) == 0
    assert_named(left_out(cfg))
    assert last_metrics(cfg)["bad_videos"] == 8


def test_processes_stop_together_for_bad_files_of_all(tiny_cfg, videos, capfd):
    """A process alone meets half of the files in the only epoch, which the fraction allows."""
    cfg = folder_cfg(tiny_cfg, videos, "SOLVER.BATCH_SIZE", 2, "DATALOADER.MAX_BAD_FRACTION", 7 / 21)
    assert launch(run_training, (cfg,), num_processes=2) == 2
    errors = capfd.readouterr().err
    assert errors.count("vmae-det: error: 8 of 21 videos cannot be read") == 1
    assert "Traceback" not in errors


# ---------------------------------------------------------------- the other tasks


def test_classification_on_bad_and_odd_files(tiny_cfg, mini_ava, videos, used, tmp_path):
    lines = (mini_ava / "annotations" / "clips_train.csv").read_text().splitlines()[:4]
    lines += [f"{path} {number % 11}" for number, path in enumerate(sorted(videos.glob("[bo]*/*")))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (tmp_path / "set.yaml").write_text(f"type: classification\nvideos: {mini_ava}\nannotations: list.csv\n")
    options = "DATALOADER.NUM_WORKERS", 1, "DATALOADER.MAX_BAD_FRACTION", 0.6, "SOLVER.EPOCHS", 3
    cfg = tiny_cfg("finetune", "DATASETS.TRAIN", (str(tmp_path / "set.yaml"),), *options)
    assert set(train_or_evaluate(cfg)) == {"top1", "top5"}
    assert_named(left_out(cfg))
    taken = used()
    assert all(taken[path.name] >= 2 for path in videos.glob("odd/*"))


def write_ten_bit(source, path):
    """Encode the frames of a video as 10-bit HEVC."""
    with av.open(str(source)) as video, av.open(str(path), "w") as copy:
        like = video.streams.video[0]
        options = {"preset": "ultrafast", "x265-params": "log-level=none"}
        stream = copy.add_stream("libx265", rate=like.average_rate, options=options)
        stream.width, stream.height, stream.pix_fmt = like.width, like.height, "yuv420p10le"
        for frame in video.decode(like):
            copy.mux(stream.encode(frame.reformat(format="yuv420p10le")))
        copy.mux(stream.encode())


@pytest.mark.parametrize("workers", [0, 2])
def test_detection_on_bad_and_odd_files(tiny_cfg, mini_ava, used, tmp_path, workers):
    """Of four videos, one is an image, one has 10 bits, one is deleted, and one is normal."""
    dataset, (bad, odd, gone, good) = copy_detection_set(mini_ava, tmp_path / "set")
    UNREADABLE["picture"](bad)
    write_ten_bit(mini_ava / "videos" / odd.name, odd)
    sets = "DATASETS.TRAIN", (str(dataset),), "DATALOADER.MAX_BAD_FRACTION", 0.5
    options = "DATALOADER.CACHE_MB", 0, "DATALOADER.NUM_WORKERS", workers, "SOLVER.EPOCHS", 4
    cfg = tiny_cfg("detect", *sets, *options, "DATASETS.TEST", ())
    run_training(cfg, hooks=[Vanish(1, gone)])
    reasons = left_out(cfg)
    assert set(reasons) == {bad.name, gone.name}
    assert "not a supported video format" in reasons[bad.name]
    assert reasons[gone.name] == GONE
    assert last_metrics(cfg)["bad_videos"] == 2
    assert min(used()[path.name] for path in (odd, good)) > 8


# ---------------------------------------------------------------- a loader process that is killed


def children(pid):
    """Return the child processes of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("finds processes through /proc")
    return [int(child) for child in path.read_text().split()]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_loader_worker_stops_the_command_and_the_run_can_be_resumed(tiny_cfg, tmp_path, processes):
    """With several processes, a loader worker of the last one is killed."""
    options = "SOLVER.EPOCHS", 1000, "SOLVER.CHECKPOINT_PERIOD", 1000, "DATALOADER.NUM_WORKERS", 2
    cfg = tiny_cfg("pretrain", *options)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    command = [sys.executable, "-m", "vmae_det.cli.main", "train", "--num-gpus", str(processes)]
    command += ["--config-file", str(tmp_path / "config.yaml")]
    metrics = Path(cfg.OUTPUT_DIR) / "metrics.jsonl"
    with (tmp_path / "output.txt").open("w") as log:
        process = PreloadedCommand(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        trainer = process.pid if processes == 1 else children(process.pid)[-1]
        killed = children(trainer)[-1]
        os.kill(killed, signal.SIGKILL)
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
    output = (tmp_path / "output.txt").read_text()
    assert process.returncode == 2, output
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if line.startswith("vmae-det: error: ")]
    assert re.search(rf"loader worker \d \(pid {killed}\) was killed by SIGKILL", error)
    (checkpoint,) = Path(cfg.OUTPUT_DIR).glob("checkpoint_*.pt")
    done = int(checkpoint.stem.split("_")[1])
    assert f"saved the state after step {done}" in output
    assert done == last_metrics(cfg)["step"]

    cfg.SOLVER.EPOCHS = 1000
    with pytest.raises(Interrupted, match=f"after step {done + 2}"):
        run_training(cfg, resume=True, hooks=[StopAfter(done + 2)])
