"""Checks of training steps: each task, device and precision, with and without torch.compile, and DDP."""

from __future__ import annotations

import datetime
import os
import tempfile
from pathlib import Path
from typing import Any

from vmae_det.doctor.isolation import CONTEXT, Problem, Stage, explain, too_slow
from vmae_det.doctor.report import FAILED

# Largest relative difference of loss and gradient norm from float32 on the CPU. In float32, devices and
# compiled code add in another order. Matrix multiplications do not use TF32, and the models have no
# convolutions. A bfloat16 number has 8 significant bits (rounding error 2^-9 = 0.2 %), a float16 number 11
# (0.02 %); the errors of ten layers add up.
TOLERANCE = {"none": 1e-3, "fp16": 1e-2, "bf16": 3e-2}
_NAMES = {"none": "fp32", "bf16": "bf16", "fp16": "fp16"}
_DDP_CLIPS = 2  # per process
_DDP_TIMEOUT = 60.0


def check_training(stage: Stage, task: str, device: str, precisions: tuple[str, ...], compiled: bool) -> str:
    """Compare steps on a device with float32 on the CPU; the loss must fall within two steps.

    Raises:
        Problem: it names each precision that differs.
    """
    import torch

    from vmae_det.doctor.tiny_models import tiny_batch, tiny_config, train_steps
    from vmae_det.utils import cpu

    torch.set_float32_matmul_precision("highest")
    cpu.use_fast_gemm(False)
    stage("fp32 on the CPU")
    batch = tiny_batch(task)
    expected = train_steps(tiny_config(task), batch, torch.device("cpu"))
    if device == "cpu":
        cpu.use_fast_gemm()  # as in a run on the CPU
    elif device.startswith("cuda"):
        torch.cuda.set_device(device)
    done, problems = [], []
    for precision in precisions:
        stage(_NAMES[precision])
        if precision == "bf16" and device.startswith("cuda") and not torch.cuda.is_bf16_supported():
            done.append("bf16 not supported")
            continue
        cfg = tiny_config(task, "SOLVER.AMP", precision, "MODEL.COMPILE", compiled)
        try:
            actual = train_steps(cfg, batch, torch.device(device))
        except Exception as error:
            problems.append(f"{_NAMES[precision]} raises {explain(error).text}")
            continue
        loss = abs(actual.loss / expected.loss - 1)
        gradient = abs(actual.gradient_norm / expected.gradient_norm - 1)
        numbers = f"{_NAMES[precision]} {max(loss, gradient):.3%}"
        if not (loss <= TOLERANCE[precision] and gradient <= TOLERANCE[precision]):  # NaN fails too
            problems.append(
                f"{_NAMES[precision]}: loss {actual.loss:.5g} and gradient norm {actual.gradient_norm:.5g}, "
                f"expected {expected.loss:.5g} and {expected.gradient_norm:.5g} within "
                f"{TOLERANCE[precision]:.1%}"
            )
        elif not actual.last_loss < actual.loss:
            problems.append(f"{_NAMES[precision]}: the loss does not fall: {actual.loss} {actual.last_loss}")
        else:
            done.append(numbers)
    if problems:
        raise Problem(FAILED, "; ".join(problems), _remedy(device, compiled))
    return f"loss {expected.loss:.4f}; loss and gradient differ by {', '.join(done)}"


def _remedy(device: str, compiled: bool) -> str:
    if compiled and device == "cpu":
        return "install a C++ compiler (apt install g++), or keep MODEL.COMPILE False, the default"
    if compiled:
        return "reinstall torch with its Triton, or keep MODEL.COMPILE False, the default"
    if device == "cpu":
        return "reinstall torch; do not train on this machine before this check passes"
    return (
        "update the driver, or install another build of torch; do not train on this device before it passes"
    )


# ---------------------------------------------------------------- DDP


def check_ddp(stage: Stage, device: str, processes: int) -> str:
    """Compare a step of several processes with a step of one process on the batches of all.

    Args:
        device: cpu (gloo) or cuda (NCCL; process i uses GPU i).
    """
    import torch

    from vmae_det.doctor.tiny_models import tiny_batch, tiny_config, train_steps

    if device == "cuda":
        torch.cuda.set_device(0)
    # Its loss is the mean over clips, so that the mean of the gradients equals that of one process.
    task = "classification"
    stage("one process")
    expected = train_steps(
        tiny_config(task), tiny_batch(task, 0, _DDP_CLIPS * processes), torch.device(device)
    )
    backend = "gloo" if device == "cpu" else "nccl"
    stage(f"starting {processes} processes with {backend}")
    with tempfile.TemporaryDirectory(prefix="vmae_det_doctor_") as folder:
        pipes, children = [], []
        for rank in range(processes):
            pipe, child_pipe = CONTEXT.Pipe(duplex=False)
            arguments = (child_pipe, device, rank, processes, f"{folder}/store")
            child = CONTEXT.Process(target=_ddp_process, args=arguments, daemon=True)
            child.start()
            child_pipe.close()
            pipes.append(pipe)
            children.append(child)
        results = []
        stage(f"a step with {backend}")
        try:
            for rank, pipe in enumerate(pipes):
                if not pipe.poll(_DDP_TIMEOUT):
                    text = f"process {rank} takes no step in {_DDP_TIMEOUT:.0f} s"
                    raise too_slow(text, _ddp_remedy(backend))
                try:
                    results.append(pipe.recv())
                except EOFError:
                    children[rank].join(5)
                    code = children[rank].exitcode
                    raise _ddp_problem(backend, f"process {rank} crashed (exit status {code})") from None
        finally:
            for child in children:
                child.kill()
    for rank, result in enumerate(results):
        if isinstance(result, Problem):
            raise _ddp_problem(backend, f"process {rank}: {result.text}")
    differences = [abs(norm / expected.gradient_norm - 1) for norm in results]
    if not all(difference <= TOLERANCE["none"] for difference in differences):  # NaN fails too
        raise _ddp_problem(
            backend,
            f"gradient norm {results}, expected {expected.gradient_norm:.5g} as with one process",
        )
    return f"{processes} processes, {backend}; gradient differs by {max(differences):.3%}"


def _ddp_problem(backend: str, text: str) -> Problem:
    return Problem(FAILED, text, _ddp_remedy(backend))


def _ddp_remedy(backend: str) -> str:
    remedy = "train with one process (without --num-gpus) until this passes"
    if backend == "nccl":
        remedy = "set NCCL_DEBUG=INFO and run again; if it hangs, set NCCL_P2P_DISABLE=1; in a container, "
        remedy += "docker run --ipc=host"
    return remedy


def _ddp_process(pipe: Any, device: str, rank: int, processes: int, store: str) -> None:
    try:
        pipe.send(_ddp_step(device, rank, processes, store))
    except BaseException as error:
        pipe.send(explain(error))
    os._exit(0)  # destroying a process group may hang after an error


def _ddp_step(device: str, rank: int, processes: int, store: str) -> float:
    import torch
    from torch import distributed as dist

    from vmae_det.doctor.tiny_models import tiny_batch, tiny_config, train_steps

    torch.set_num_threads(1)
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        init_method=Path(store).as_uri(),
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(seconds=_DDP_TIMEOUT),
    )
    place = torch.device("cuda", rank) if device == "cuda" else torch.device("cpu")
    total = torch.full((), float(rank + 1), device=place)
    dist.all_reduce(total)
    if float(total) != processes * (processes + 1) / 2:
        raise RuntimeError(f"the sum of 1 to {processes} over all processes is {float(total):g}")
    task = "classification"
    batch = tiny_batch(task, rank * _DDP_CLIPS, _DDP_CLIPS)
    return train_steps(tiny_config(task), batch, place).gradient_norm
