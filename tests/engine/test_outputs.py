"""Outputs of a run and their cost: metrics, a profile, and the changes since a checkpoint."""

import gzip
import json
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch
from interrupts import StopAfter
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from vmae_det.cli.main import main
from vmae_det.cli.train import train_or_evaluate
from vmae_det.config.differences import config_differences
from vmae_det.engine.hooks import Interrupted
from vmae_det.engine.launch import launch
from vmae_det.engine.train import run_training
from vmae_det.engine.trainer import HookBase
from vmae_det.utils import distributed

pytestmark = pytest.mark.usefixtures("preloaded_processes")


def lines(cfg):
    text = (Path(cfg.OUTPUT_DIR) / "metrics.jsonl").read_text()
    return {entry["step"]: entry for entry in map(json.loads, text.splitlines())}


@pytest.fixture
def short_cfg(tiny_cfg):
    """short_cfg(TASK, KEY, VALUE, ...): pre-training has two steps per epoch."""
    return lambda task, *options: tiny_cfg(task, "DATALOADER.CLIPS_PER_VIDEO", 4, *options)


# ---------------------------------------------------------------- numbers


def test_metrics_of_a_run(short_cfg):
    cfg = short_cfg("pretrain", "SOLVER.EPOCHS", 3, "SOLVER.LOG_PERIOD", 4, "DATALOADER.REPEATED_AUG", 2)
    run_training(cfg)
    found = lines(cfg)
    assert list(found) == [4, 6]
    for step, values in found.items():
        assert values["clips_per_second"] == pytest.approx(4 * 2 / values["step_seconds"])
        assert values["data_share"] == pytest.approx(values["data_seconds"] / values["step_seconds"])
        assert 0 < values["data_share"] < 1
        assert values["eta_seconds"] == pytest.approx((6 - step) * values["step_seconds"])
        assert 0.05 < values["peak_memory_gb"] < 50
        assert values["gradient_norm"] > 0
        assert "clips" not in values
    log = (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert "step 4/6  eta 0:00:0" in log
    assert "clips_per_second" in log


class TrueNorm(HookBase):
    """Compute the norm of the gradient independently."""

    def may_update(self):
        squares = [
            p.grad.double().square().sum() for p in self.trainer.model.parameters() if p.grad is not None
        ]
        self.norm = float(sum(squares).sqrt())
        return True


def test_the_logged_gradient_norm_is_that_of_the_gradients(short_cfg, tmp_path):
    norm = TrueNorm()
    cfg = short_cfg("pretrain", "SOLVER.LOG_PERIOD", 2, "SOLVER.CLIP_GRAD", 0.0)
    run_training(cfg, hooks=[norm])
    assert lines(cfg)[2]["gradient_norm"] == pytest.approx(norm.norm, rel=1e-4)
    # Measuring it without clipping changes no weight.
    other = short_cfg("pretrain", "SOLVER.CLIP_GRAD", 0.0, "OUTPUT_DIR", str(tmp_path / "other"))
    run_training(other)
    first, second = (
        torch.load(Path(run.OUTPUT_DIR) / "model_final.pt", weights_only=True)["model"]
        for run in (cfg, other)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


class CountReads(TorchDispatchMode):
    """Count the reads of tensor values, each of which would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.reads += "_local_scalar_dense" in str(function)
        return function(*arguments, **(keywords or {}))


class Watch(HookBase):
    """Run steps without hooks and count the reads."""

    def __init__(self):
        self.reads = []

    def before_train(self):
        run_step = self.trainer.run_step

        def watched():
            with CountReads() as counter:
                run_step()
            self.reads.append(counter.reads)

        self.trainer.run_step = watched


def test_a_step_reads_no_value_from_the_device(short_cfg):
    watch = Watch()
    run_training(short_cfg("pretrain", "SOLVER.EPOCHS", 2, "SOLVER.CLIP_GRAD", 1.0), hooks=[watch])
    assert watch.reads[1:] == [0] * 3  # the optimizer reads one when it creates its state
    watch = Watch()
    cfg = short_cfg("pretrain", "SOLVER.ON_BAD_LOSS", "skip")
    cfg.OUTPUT_DIR += "_skip"
    run_training(cfg, hooks=[watch])
    assert all(watch.reads)  # the cost of this mode; also shows that reads are counted


class CountExchanges(HookBase):
    """Record the number of small collectives of this process between two steps."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.counts = []

    def before_train(self):
        self.all_reduce, self.count = dist.all_reduce, 0

        def counted(tensor, *arguments, **keywords):
            self.count += tensor.dtype == torch.uint8
            return self.all_reduce(tensor, *arguments, **keywords)

        dist.all_reduce = counted

    def before_step(self):
        self.count = 0

    def after_step(self):
        self.counts.append(self.count)

    def close(self):
        dist.all_reduce = self.all_reduce
        (self.folder / f"{distributed.get_rank()}.json").write_text(json.dumps(self.counts))


def test_processes_exchange_flags_once_per_step(short_cfg, tmp_path):
    """One more is for the loader, which exchanges unreadable videos."""
    cfg = short_cfg("pretrain", "SOLVER.EPOCHS", 2, "SOLVER.LOG_PERIOD", 9, "SOLVER.CHECKPOINT_PERIOD", 2)
    assert launch(run_training, (cfg, False, [CountExchanges(tmp_path)]), num_processes=2) == 0
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text())[:3] == [2, 2, 2]


# ---------------------------------------------------------------- profile


def ranges(path):
    with gzip.open(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    return Counter(event["name"] for event in events if event.get("cat") == "user_annotation")


@pytest.mark.parametrize(("epochs", "steps"), [(6, 4), (1, 1)])
def test_a_profile_contains_the_parts_of_a_step(short_cfg, epochs, steps):
    """Four of twelve steps are profiled, and the last of two."""
    cfg = short_cfg("pretrain", "SOLVER.EPOCHS", epochs, "SOLVER.ACCUMULATE", 2)
    train_or_evaluate(cfg, profile=True)
    folder = Path(cfg.OUTPUT_DIR) / "profile"
    found = ranges(folder / "trace_0.json.gz")
    assert {name: found[name] for name in ("data", "forward", "backward", "optimizer")} == {
        **dict.fromkeys(("data", "forward", "backward"), 2 * steps),
        "optimizer": steps,
    }
    table = (folder / "operations_0.txt").read_text().splitlines()
    times = {line.split()[0]: float(line.split()[1]) for line in table[1:5]}
    assert list(times) == ["data", "forward", "backward", "optimizer"]
    assert min(times.values()) > 0
    assert any("aten::" in line and line.rstrip()[-1].isdigit() for line in table[6:])
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def profiled(cfg):
    train_or_evaluate(cfg, profile=True)


def test_each_process_writes_a_profile(short_cfg):
    cfg = short_cfg("pretrain", "SOLVER.EPOCHS", 5)
    assert launch(profiled, (cfg,), num_processes=2) == 0
    for rank in range(2):
        assert ranges(Path(cfg.OUTPUT_DIR) / "profile" / f"trace_{rank}.json.gz")["backward"] == 4


def test_profiling_requires_training(capsys):
    assert main(["train", "--profile", "--eval-only"]) == 2
    assert (
        "--profile: profiles training steps, so it cannot be combined with --eval-only"
        in capsys.readouterr().err
    )


# ---------------------------------------------------------------- resuming


def test_resumed_run_logs_changes(short_cfg):
    cfg = short_cfg("pretrain", "SOLVER.EPOCHS", 2)
    with pytest.raises(Interrupted):
        run_training(cfg, hooks=[StopAfter(2)])
    log = Path(cfg.OUTPUT_DIR) / "log.txt"
    with pytest.raises(Interrupted):
        run_training(cfg, resume=True, hooks=[StopAfter(3)])
    assert "differences" not in log.read_text()
    assert "bit-identical" not in log.read_text()
    cfg.merge_from_list(["SEED", 5, "SOLVER.BASE_LR", 1e-3, "SOLVER.LOG_PERIOD", 2])
    run_training(cfg, resume=True)
    warning, told = "", ""
    for line in log.read_text().splitlines():
        warning = line if "bit-identical" in line else warning
        told = line if "do not affect the weights" in line else told
    assert "WARNING" in warning
    assert warning.endswith("changed since the checkpoint: SEED 0 -> 5; SOLVER.BASE_LR 0.032 -> 0.001")
    assert told.endswith("do not affect the weights: SOLVER.LOG_PERIOD 1 -> 2")


def test_differences_of_configs(tiny_cfg):
    cfg = tiny_cfg("detect")
    assert config_differences(cfg.dump(), cfg) == []
    other = tiny_cfg("detect", "SOLVER.BATCH_SIZE", 8, "TEST.PERIOD", 3, "INPUT.CROP_SCALES", (1.0, 0.5))
    found = {found.key: found for found in config_differences(cfg.dump(), other)}
    assert set(found) == {"SOLVER.BATCH_SIZE", "TEST.PERIOD", "INPUT.CROP_SCALES"}
    assert [key for key, difference in found.items() if difference.harmless] == ["TEST.PERIOD"]
    assert (found["SOLVER.BATCH_SIZE"].before, found["SOLVER.BATCH_SIZE"].now) == (4, 8)
    # A config of an older version lacks some keys and has others.
    old = "\n".join(line for line in cfg.dump().splitlines() if "SEED" not in line) + "\nGONE: 1\n"
    assert config_differences(old, cfg) == []
    assert [found.key for found in config_differences(old, tiny_cfg("detect", "SEED", 3))] == ["SEED"]


@pytest.fixture(autouse=True)
def _log_file_is_closed():
    yield
    logger = logging.getLogger("vmae_det")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
