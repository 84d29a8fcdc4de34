"""Facts about PyTorch, the NVIDIA driver and the GPUs, and whether they fit each other."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator

from vmae_det.doctor.isolation import Stage
from vmae_det.doctor.report import FACT, FAILED, OK, WARNING, Finding
from vmae_det.utils.memory import format_bytes

SECTION = "PyTorch and GPUs"
_DRIVER_QUERY = ("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")
_INSTALL = "choose the command for your driver on https://pytorch.org/get-started/locally"


def nvidia_driver() -> tuple[str, list[str]] | None:
    """Return the driver version and the names of the GPUs, from nvidia-smi; None without a driver."""
    try:
        done = subprocess.run(_DRIVER_QUERY, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line]
    return (rows[0][0], [name for _, name in rows]) if done.returncode == 0 and rows else None


def describe_devices(stage: Stage) -> list[Finding]:
    """Return the facts about PyTorch and each device. Imports torch."""
    return list(_describe(stage))


def _describe(stage: Stage) -> Iterator[Finding]:
    import torch

    from vmae_det.utils import cpu

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
    if torch.version.hip:
        built = f"built for ROCm {torch.version.hip}"
    yield Finding(SECTION, "PyTorch", FACT, f"{torch.__version__}, {built}{_libraries()}")
    cpu.use_fast_gemm()
    fast = "AVX-512 kernels of oneDNN (AMD)" if cpu.is_fast_gemm_enabled() else "PyTorch's choice"
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    yield Finding(SECTION, "CPU kernels", FACT, f"{capability}, {threads} threads, float32 GEMM: {fast}")

    stage("asking nvidia-smi and torch for GPUs")
    driver = nvidia_driver()
    if torch.cuda.is_available():
        yield Finding(SECTION, "NVIDIA driver", FACT, driver[0] if driver else "nvidia-smi is not available")
        yield from _gpus()
    elif driver:
        version, names = driver
        problem = f"{', '.join(names)} (driver {version}), but torch cannot use it: "
        problem += "a build with CUDA is needed" if not torch.version.cuda else _cuda_error()
        remedy = f"reinstall torch and torchvision: {_INSTALL}"
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            problem += f"; CUDA_VISIBLE_DEVICES is '{os.environ['CUDA_VISIBLE_DEVICES']}'"
            remedy = f"unset CUDA_VISIBLE_DEVICES, or {remedy}"
        yield Finding(SECTION, "GPU", FAILED, problem, remedy)
    else:
        yield Finding(SECTION, "GPU", FACT, "none: no NVIDIA driver, and torch finds no GPU")
    if platform.system() == "Darwin":
        available = torch.backends.mps.is_available()
        yield Finding(SECTION, "MPS", FACT, "available (untried)" if available else "not available")


def _libraries() -> str:
    """Return the versions of cuDNN and NCCL that torch was built with."""
    import torch

    text = ""
    if torch.version.cuda:
        number = torch.backends.cudnn.version() or 0  # 92400 is 9.24.0; before 9: 8902 is 8.9.2
        unit = 10_000 if number >= 90_000 else 1000
        cudnn = f"{number // unit}.{number % unit // 100}.{number % 100}" if number else "missing"
        text += f", cuDNN {cudnn}"
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        try:
            text += f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
        except Exception as error:
            text += f", NCCL without a version ({error})"
    return text


def _gpus() -> Iterator[Finding]:
    import torch

    architectures = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        text = f"{properties.name}, compute capability {capability}"
        try:
            free, total = torch.cuda.mem_get_info(index)
            text += f", {format_bytes(free)} free of {format_bytes(total)}"
        except RuntimeError as error:  # such as a GPU in exclusive mode that another process uses
            remedy = "stop the process that uses the GPU (nvidia-smi), or choose another GPU"
            yield Finding(SECTION, f"GPU {index}", FAILED, f"{text}; cannot be used: {error}", remedy)
            continue
        # Binary code runs on later minor versions; PTX ("compute_") is compiled for any later GPU.
        majors = {
            name.partition("_")[2].rstrip("af")[:-1] for name in architectures if name.startswith("sm_")
        }
        has_ptx = any(name.startswith("compute_") for name in architectures)
        if not torch.version.hip and majors and str(properties.major) not in majors and not has_ptx:
            text += f"; this build of torch has no kernels for it, only {', '.join(architectures)}"
            yield Finding(
                SECTION, f"GPU {index}", FAILED, text, f"install another build of torch: {_INSTALL}"
            )
        elif free < 0.1 * total:
            remedy = "stop other processes on this GPU (nvidia-smi), or choose another GPU"
            yield Finding(SECTION, f"GPU {index}", WARNING, f"{text}: nearly full", remedy)
        else:
            yield Finding(SECTION, f"GPU {index}", OK, text)


def _cuda_error() -> str:
    """Return why torch, built for CUDA, finds no GPU."""
    import torch

    try:
        torch.cuda.init()
    except Exception as error:
        return str(error).partition("\n")[0]
    return "it finds none"


def usable_devices(findings: list[Finding]) -> list[str]:
    """Return the CPU, the first GPU of each type and MPS, from the facts of `describe_devices`."""
    kinds: dict[str, str] = {}
    for finding in findings:
        if finding.name.startswith("GPU ") and finding.status != FAILED:
            kinds.setdefault(finding.text.partition(",")[0], f"cuda:{finding.name.removeprefix('GPU ')}")
        elif finding.name == "MPS" and finding.text.startswith("available"):
            kinds["MPS"] = "mps"
    return ["cpu", *kinds.values()]
