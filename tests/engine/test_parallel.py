"""Results and checkpoints do not depend on the number of processes, nor on DDP or FSDP."""

import json
import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from interrupts import StopAfter

from vmae_det.checkpoint import Checkpointer
from vmae_det.checkpoint.sharded import read_metadata
from vmae_det.cli.train import train_or_evaluate
from vmae_det.engine.launch import launch
from vmae_det.engine.parallel import parallelize
from vmae_det.engine.train import run_training
from vmae_det.modeling import build_model
from vmae_det.modeling.backbones.blocks import Block
from vmae_det.utils.errors import ConfigError

pytestmark = pytest.mark.usefixtures("preloaded_processes")

AVERAGE = ("SOLVER.EMA_DECAY", 0.9, "SOLVER.CLIP_GRAD", 1.0)


def curve(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def weights(folder):
    return torch.load(Path(folder) / "model_final.pt", weights_only=True)["model"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def close(first, second):
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], atol=1e-4) for name in first
    )


def interrupted(cfg):
    run_training(cfg, hooks=[StopAfter(2)])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Single-process runs by options; each runs once."""
    made = {}

    def run(tiny_cfg, task, *options):
        key = (task, *options)
        if key not in made:
            folder = tmp_path_factory.mktemp("one")
            run_training(tiny_cfg(task, *options, "OUTPUT_DIR", str(folder)))
            made[key] = folder
        return made[key]

    return run


@pytest.mark.parametrize(
    ("parallel", "processes", "accumulate"), [("ddp", 2, 2), ("ddp", 4, 1), ("fsdp", 2, 1), ("fsdp", 4, 2)]
)
def test_losses_do_not_depend_on_the_number_of_processes(
    tiny_cfg, tmp_path, reference, parallel, processes, accumulate
):
    options = (*AVERAGE, "SOLVER.BATCH_SIZE", 8, "SOLVER.ACCUMULATE", accumulate)
    one = reference(tiny_cfg, "pretrain", *options)
    cfg = tiny_cfg("pretrain", *options, "SOLVER.PARALLEL", parallel, "OUTPUT_DIR", str(tmp_path / "many"))
    assert launch(run_training, (cfg,), num_processes=processes) == 0
    assert curve(tmp_path / "many") == pytest.approx(curve(one), rel=1e-4)
    assert close(weights(tmp_path / "many"), weights(one))


def test_a_detector_on_several_processes_has_the_losses_and_results_of_one(tiny_cfg, tmp_path, reference):
    person_head = ("MODEL.PERSON_HEAD.NAME", "FcosPersonHead", "MODEL.PERSON_HEAD.CHANNELS", 8)
    options = ("MODEL.ROI_HEAD.NAME", "AttentionRoIHead", *person_head, "TEST.PERSON_BOXES", "dataset")
    options += ("MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7)
    one = reference(tiny_cfg, "detect", *options)
    cfg = tiny_cfg("detect", *options, "SOLVER.PARALLEL", "fsdp", "OUTPUT_DIR", str(tmp_path / "two"))
    assert launch(run_training, (cfg,), num_processes=2) == 0
    assert curve(tmp_path / "two") == pytest.approx(curve(one), rel=1e-4)
    assert results(tmp_path / "two") == pytest.approx(results(one), abs=1e-3)


def test_sharded_checkpoint_of_four_processes_resumes_on_any_number(tiny_cfg, tmp_path, reference):
    options = (*AVERAGE, "SOLVER.BATCH_SIZE", 8, "SOLVER.EPOCHS", 2)
    one = reference(tiny_cfg, "pretrain", *options)
    cfg = tiny_cfg("pretrain", *options, "SOLVER.PARALLEL", "fsdp", "OUTPUT_DIR", str(tmp_path / "four"))
    assert launch(interrupted, (cfg,), num_processes=4) == 128 + signal.SIGINT
    saved = tmp_path / "four" / "checkpoint_0000002"
    parts = read_metadata(saved / ".metadata").state_dict_metadata["model.backbone.blocks.0.mlp.fc1.weight"]
    assert len(parts.chunks) == 4  # one per process
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=saved, check=True)
    for processes, parallel in ((1, "fsdp"), (2, "fsdp"), (2, "ddp")):
        folder = tmp_path / f"{processes}{parallel}"
        shutil.copytree(tmp_path / "four", folder)
        cfg = tiny_cfg("pretrain", *options, "SOLVER.PARALLEL", parallel, "OUTPUT_DIR", str(folder))
        assert launch(train_or_evaluate, (cfg, True), num_processes=processes) == 0
        assert (folder / "reconstruction.png").exists()
        assert curve(folder) == pytest.approx(curve(one), rel=1e-4)
        assert close(weights(folder), weights(one))


def test_checkpoint_of_one_process_resumes_sharded(tiny_cfg, tmp_path, reference):
    options = (*AVERAGE, "SOLVER.BATCH_SIZE", 8, "SOLVER.EPOCHS", 2)
    one = reference(tiny_cfg, "pretrain", *options)
    folder = tmp_path / "two"
    cfg = tiny_cfg("pretrain", *options, "OUTPUT_DIR", str(folder))
    assert launch(interrupted, (cfg,)) == 128 + signal.SIGINT
    cfg.SOLVER.PARALLEL = "fsdp"
    assert launch(run_training, (cfg, True), num_processes=2) == 0
    assert curve(folder) == pytest.approx(curve(one), rel=1e-4)
    assert close(weights(folder), weights(one))


def test_damaged_parts_are_skipped_and_no_other_class_is_unpickled(tiny_cfg, tmp_path, caplog):
    keys = ("SOLVER.PARALLEL", "fsdp", "SOLVER.BATCH_SIZE", 8, "DATALOADER.CLIPS_PER_VIDEO", 24)
    cfg = tiny_cfg("pretrain", *keys)
    assert launch(interrupted, (cfg,), num_processes=2) == 128 + signal.SIGINT
    folder = Path(cfg.OUTPUT_DIR)
    saved = folder / "checkpoint_0000002"
    newer = shutil.copytree(saved, folder / "checkpoint_0000003")
    part = next(newer.glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert Checkpointer(folder).load_newest()[0] == saved
    assert "SHA-256 differs from that in SHA256SUMS" in caplog.text
    shutil.rmtree(newer)
    marker = tmp_path / "executed"
    (saved / ".metadata").write_bytes(pickle.dumps(_Touches(marker)))
    sums = [line for line in (saved / "SHA256SUMS").read_text().splitlines() if ".metadata" not in line]
    (saved / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    assert launch(run_training, (cfg, True)) == 2
    assert not marker.exists()


class _Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


def test_every_block_is_compiled(tiny_cfg):
    cfg = tiny_cfg("pretrain", "MODEL.COMPILE", True)
    model = parallelize(cfg, build_model(cfg), torch.device("cpu"))
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(blocks) == 3  # two of the encoder, one of the decoder
    assert all("forward" in vars(block) for block in blocks)  # replaced by its compiled version


def test_loss_scaling_is_refused(tiny_cfg):
    cfg = tiny_cfg("pretrain", "SOLVER.PARALLEL", "fsdp", "SOLVER.AMP", "fp16")
    with pytest.raises(ConfigError, match="fp16 needs loss scaling"):
        run_training(cfg)
