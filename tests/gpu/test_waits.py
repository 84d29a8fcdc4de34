"""A training step does not wait for the device, and a run returns the memory that it used."""

import gc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils.pin_memory import pin_memory

from gpu.steps import TASKS, full_width_config, make_batch, make_trainer
from vmae_det.engine.bad_loss import BadLossHandler
from vmae_det.engine.ema import ModelEMA
from vmae_det.engine.evaluation import run_evaluation
from vmae_det.engine.hooks import LRScheduler
from vmae_det.engine.train import run_training
from vmae_det.solver import build_schedule

# On a GPU, the result or its shape is known only after the kernels before it have finished.
_WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_consecutive")


class _Waits(TorchDispatchMode):
    """Records the operators that wait for a GPU. For tests on the CPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name in _WAITING or str(function) == "aten.repeat_interleave.Tensor":
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("task", TASKS)
def test_a_step_does_not_wait_for_the_device(device, tmp_path, task, amp):
    """The exceptions (SOLVER.ON_BAD_LOSS skip, SOLVER.LOG_PERIOD, checkpoints) are in docs/results/gpu.md."""
    options = ("SOLVER.AMP", amp, "SOLVER.CLIP_GRAD", 1.0, "MODEL.BACKBONE.DEPTH", 2)
    cfg = full_width_config(task, "small", device, *options)
    batch = make_batch(cfg)
    if device.type == "cuda":
        batch = pin_memory(batch)  # as the loader does
    trainer = make_trainer(cfg, device, [dict(batch) for _ in range(6)])
    hooks = [
        LRScheduler(build_schedule(cfg)),
        BadLossHandler(False, 1e6, 0, tmp_path),
        ModelEMA(trainer.model, 0.9),
    ]
    if device.type == "cuda":
        trainer.register_hooks(hooks)
        trainer.train(0, 3)  # the first steps allocate
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.train(3, 6)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        trainer.run_step()
        with _Waits() as waits:
            trainer.run_step()
        # On the CPU only, F.one_hot checks the smallest and the largest label.
        assert waits.found == ["_local_scalar_dense"] * (2 if task == "finetune" else 0)
    assert torch.isfinite(trainer.loss)


@pytest.mark.parametrize("task", TASKS)
def test_memory_is_returned(device_cfg, device, report, tmp_path, task):
    """Libraries keep buffers after the first run. The second one keeps nothing more."""
    used = []
    for number in range(2):
        cfg = device_cfg(task, "OUTPUT_DIR", str(tmp_path / str(number)), "SOLVER.EMA_DECAY", 0.9)
        run_training(cfg)
        if task == "detect":
            weights = str(tmp_path / str(number) / "model_final.pt")
            cfg.merge_from_list(["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / f"test{number}")])
            run_evaluation(cfg)
        used.append(_tensor_bytes(device))
    report("bytes of tensors after the first and the second run", f"{used[0]}, {used[1]}")
    assert used[1] <= used[0]
    assert used[0] < 128 * 2**20


def _tensor_bytes(device):
    gc.unfreeze()  # what the session and the loaders have frozen
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    storages = (
        item.untyped_storage()
        for item in gc.get_objects()
        if type(item) in (torch.Tensor, torch.nn.Parameter)
    )
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
