"""Choose batch size, learning rate, length and evaluations of `vmae-det train --data`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data.loader import ConcatClipDataset
from vmae_det.engine.auto_choices import Choices
from vmae_det.engine.inspection import Memory, count_tokens, estimate_memory
from vmae_det.engine.setup import choose_amp, get_device
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.memory import device_memory, format_bytes

_MIN_STEPS, _MIN_CLIPS = 20, 4  # of an epoch, and of a step; the clips have precedence
_MEMORY_SHARE = 0.7  # of the device; kernels, the loader and the system use the rest
_EVALUATIONS = 10  # of a run
_PATIENCE = 5


class Schedule(NamedTuple):
    """Rule for batch size, learning rate and length of a run.

    Attributes:
        clips: largest number of clips of a step.
        rate: learning rate of a step of 16 clips. It grows with the square root of their number.
        head: factor of the head's learning rate.
        steps: target number of optimizer steps.
    """

    clips: int
    rate: float
    head: float
    steps: int


# By task, and by whether the backbone is the tiny one. The rates of the others are those of the paper's
# recipes, scaled by the square root of the batch size. Those of the tiny one are measured on MiniAVA.
_SCHEDULES = {
    ("pretraining", False): Schedule(256, 7.5e-5, 1.0, 10_000),
    ("classification", False): Schedule(64, 1e-4, 10.0, 3_000),
    ("detection", False): Schedule(64, 1e-4, 10.0, 3_000),
    ("pretraining", True): Schedule(16, 2e-3, 1.0, 3_000),
    ("classification", True): Schedule(16, 5e-4, 40.0, 800),
    ("detection", True): Schedule(16, 2e-3, 2.0, 600),
}
_CPU_CLIPS, _CPU_STEPS = 16, 500  # of a backbone that is not tiny


def choose_schedule(choices: Choices, dataset: ConcatClipDataset, processes: int) -> None:
    """Choose precision, batch size, learning rate, length and loader of a run of some processes."""
    cfg, solver = choices.cfg, choices.cfg.SOLVER
    device = get_device(cfg)
    on_cpu = device.type != "cuda"
    amp, why = choose_amp(device)
    choices.set("SOLVER.AMP", amp, why)
    rule = _SCHEDULES[choices.task, choices.is_tiny]
    if on_cpu and not choices.is_tiny:
        rule = rule._replace(clips=_CPU_CLIPS, steps=_CPU_STEPS)
    copies = cfg.DATALOADER.REPEATED_AUG
    samples = len(dataset)
    if choices.task == "pretraining":  # CLIPS_PER_VIDEO was chosen after the dataset was built
        samples = dataset.num_files * cfg.DATALOADER.CLIPS_PER_VIDEO
    wanted = max(min(rule.clips, samples * copies / _MIN_STEPS), _MIN_CLIPS) / copies
    per_process = _power_of_two(wanted / processes)
    batch = min(per_process * processes, samples)
    sizes = f"{_MIN_CLIPS} to {rule.clips} clips"
    reason = f"{samples} samples in an epoch: {_MIN_STEPS} steps or more, of {sizes}"
    choices.set("SOLVER.BATCH_SIZE", batch, reason)
    _choose_accumulation(choices, device, copies, processes)
    batch = solver.BATCH_SIZE
    rate = rule.rate * math.sqrt(batch * copies / 16)
    reason = f"{rate:.3g} for a step: {rule.rate:g} x sqrt({batch * copies} clips / 16)"
    choices.set("SOLVER.BASE_LR", float(f"{rate * 256 / batch:.3g}"), reason)
    for key in ("MIN_LR", "WARMUP_LR"):
        if solver[key] > solver.BASE_LR:
            choices.set(f"SOLVER.{key}", 0.0, "not above BASE_LR")
    if choices.task != "pretraining":
        choices.set("SOLVER.HEAD_LR_FACTOR", rule.head, "the head starts from random weights")
    steps = max(samples // batch, 1)
    epochs = int(np.clip(math.ceil(rule.steps / steps), 10, 200))
    reason = f"about {rule.steps} steps, {steps} in an epoch; 10 to 200 epochs"
    choices.set("SOLVER.EPOCHS", epochs, reason)
    warmup = min(round(solver.EPOCHS / 10, 1), 5.0)
    choices.set("SOLVER.WARMUP_EPOCHS", warmup, "a tenth of the epochs, at most 5")
    cores = count_cores()
    workers = int(cores > processes) if on_cpu else min(max(cores // processes - 1, 1), 8)
    reason = f"{cores} CPU cores, {processes} process{'es' * (processes > 1)} on {device.type}"
    choices.set("DATALOADER.NUM_WORKERS", workers, reason)
    if choices.task == "detection":
        choices.set("DATALOADER.CACHE_MB", 256, "keeps decoded clips in each loader worker")


def _choose_accumulation(choices: Choices, device: torch.device, copies: int, processes: int) -> None:
    """Divide the batch into passes that fit into the memory of the device."""
    share = device_memory(device) / (1 if device.type == "cuda" else processes)
    memory, fits = _clips_that_fit(choices.cfg, share)
    if fits < copies:
        reason = f"{copies} clips need {format_bytes(memory.total(copies))} otherwise"
        choices.set("MODEL.ACTIVATION_CHECKPOINTING", True, reason)
        memory, fits = _clips_that_fit(choices.cfg, share)
    local, parts = choices.cfg.SOLVER.BATCH_SIZE // processes, 1
    while local * copies / parts > max(fits, copies) and local % (2 * parts) == 0:
        parts *= 2
    clips = local * copies // parts
    reason = f"{clips} clips need {format_bytes(memory.total(clips))} of {format_bytes(share)}"
    choices.set("SOLVER.ACCUMULATE", parts, reason)


def _clips_that_fit(cfg: CfgNode, size: float) -> tuple[Memory, int]:
    memory = estimate_memory(cfg, count_tokens(cfg))
    return memory, int((_MEMORY_SHARE * size - memory.total(0)) / max(memory.clip, 1))


def choose_evaluation(choices: Choices) -> None:
    """Choose when to evaluate, to save and to stop."""
    epochs = choices.cfg.SOLVER.EPOCHS
    period = max(epochs // _EVALUATIONS, 1)
    if choices.cfg.DATASETS.TEST:
        choices.set("TEST.PERIOD", period, f"epochs between evaluations, about {_EVALUATIONS} in the run")
        if choices.task != "pretraining" and choices.cfg.TEST.PERIOD:
            choices.set("TEST.PATIENCE", _PATIENCE, "evaluations without improvement before the run stops")
    choices.set("SOLVER.CHECKPOINT_PERIOD", choices.cfg.TEST.PERIOD or period, "as often as evaluations")


def _power_of_two(number: float) -> int:
    return 2 ** int(math.log2(max(number, 1)))
