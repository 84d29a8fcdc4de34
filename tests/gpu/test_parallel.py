"""DDP and FSDP2 on one device: a step equals that of the plain model. All GPUs, if there are several."""

import subprocess
import sys

import pytest
import torch
from torch import distributed as dist

from gpu.steps import build, full_width_config, loss_curve, make_batch, norm
from vmae_det.engine import parallel
from vmae_det.engine.trainer import Trainer
from vmae_det.solver import build_optimizer
from vmae_det.utils.sharded_tensors import full_state_dict, is_sharded

WRAPPERS = {"ddp": parallel._replicate, "fsdp": parallel._shard}


@pytest.fixture
def one_process(device):
    """A process group of this process, with the backends of the launcher."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def train(cfg, device, batches, wrap):
    """Return the losses and the full weights on the CPU after a step on each batch."""
    model = build(cfg, device)
    trained = wrap(model, device)
    trainer = Trainer(
        trained, build_optimizer(cfg, model), iter(batches), device, clip_grad=1.0, amp=cfg.SOLVER.AMP
    )
    losses = []
    for _ in batches:
        trainer.run_step()
        losses.append(float(trainer.loss))
    if wrap is WRAPPERS["fsdp"]:
        assert all(is_sharded(parameter) for parameter in model.parameters())
    return losses, {name: value.cpu() for name, value in full_state_dict(model.state_dict()).items()}


@pytest.mark.parametrize("amp", ["none", "bf16"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("task", ["pretrain", "detect"])
def test_a_step_equals_that_of_the_plain_model(device, one_process, report, task, wrapper, amp):
    options = ("MODEL.BACKBONE.DEPTH", 3, "MODEL.BACKBONE.DROP_PATH", 0.0, "SOLVER.AMP", amp)
    cfg = full_width_config(task, "small", device, *options)
    batches = [make_batch(cfg) for _ in range(2)]
    plain_losses, plain = train(cfg, device, batches, lambda model, _: model)
    losses, weights = train(cfg, device, batches, WRAPPERS[wrapper])
    assert losses == pytest.approx(plain_losses, rel=1e-5 if amp == "none" else 1e-2)
    assert weights.keys() == plain.keys()
    change = norm([weights[name] - plain[name] for name in plain]) / norm(plain.values())
    report("relative difference of the weights", f"{change:.1e}")
    assert change < (1e-4 if amp == "none" else 1e-2)


@pytest.mark.parametrize("method", WRAPPERS)
def test_all_gpus_have_the_losses_of_one(device_cfg, gpu, tmp_path, method):
    count = torch.cuda.device_count()
    if count == 1:
        pytest.skip("this machine has one GPU")
    curves = []
    for processes in (1, count):
        folder = tmp_path / str(processes)
        options = ("SOLVER.BATCH_SIZE", 2 * count, "SOLVER.PARALLEL", method, "DATALOADER.REPEATED_AUG", 1)
        cfg = device_cfg("pretrain", *options, "OUTPUT_DIR", str(folder))
        (tmp_path / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        command = [sys.executable, "-m", "vmae_det.cli.main", "train", "--num-gpus", str(processes)]
        subprocess.run([*command, "--config-file", str(tmp_path / "config.yaml")], check=True, timeout=300)
        curves.append(loss_curve(folder))
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
