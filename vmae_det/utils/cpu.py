"""CPU settings that PyTorch does not choose by itself: faster matrix multiplication on AMD, and memory reuse.

Also tells whether a CPU computes in bfloat16.

PyTorch runs float32 matrix multiplications (GEMM) with Intel MKL, which on AMD uses AVX2 at half the speed of
AVX-512. oneDNN, which is also part of PyTorch, has AVX-512 kernels, but PyTorch uses it only if the float32
matmul precision is "medium", which allows bfloat16 internally. oneDNN uses bfloat16 only with AMX, which AMD
does not have; otherwise results are those of float32. `_keeps_float32` verifies this.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
from contextlib import suppress
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_fast_gemm = False
# Instructions that multiply bfloat16 matrices, by their name in /proc/cpuinfo; the fastest ones first.
_BFLOAT16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
_INT8_UNITS = ("avx512_vnni", "avx_vnni")


def load_average() -> float:
    """Return the mean number of running threads of this machine in the last minute; NaN on Windows."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    with suppress(AttributeError):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_threads(loader_workers: int) -> int:
    """Return the number of threads for the model of this process.

    The processes of this machine share its cores equally. Each loader worker gets a core of its own, because
    threads that share a core wait for each other. OMP_NUM_THREADS is an upper limit.
    """
    threads = count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - loader_workers
    with suppress(ValueError):  # not set, or a list such as "4,2"
        threads = min(threads, int(os.environ.get("OMP_NUM_THREADS", "")))
    return max(threads, 1)


def bfloat16_units() -> str:
    """Return the name of the instructions of this CPU that multiply bfloat16 matrices; "" if it has none.

    Known on Linux with x86 only.
    """
    return next((name for flag, name in _BFLOAT16_UNITS.items() if flag in _flags()), "")


def is_bfloat16_emulated() -> bool:
    """Return whether this CPU is known to compute bfloat16 without such instructions, slower than float32."""
    return bool(_flags()) and not bfloat16_units()


def has_int8_units() -> bool:
    """Return whether this CPU has VNNI, instructions that multiply int8 matrices. Known on Linux only."""
    return not _flags().isdisjoint(_INT8_UNITS)


@functools.cache
def _flags() -> frozenset[str]:
    """Return the features of this CPU, by their names in /proc/cpuinfo; empty if they are not known."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return frozenset(word for line in lines if line.startswith("flags") for word in line.split())
    return frozenset()


def use_fast_gemm(enabled: bool = True) -> None:
    """Enable or disable the faster GEMM kernels in this process, if this CPU has them."""
    global _fast_gemm
    import torch  # here, so that `count_cores` works without torch

    if enabled != _fast_gemm and _has_fast_gemm():
        torch.set_float32_matmul_precision("medium" if enabled else "highest")
        _fast_gemm = enabled


def is_fast_gemm_enabled() -> bool:
    """Return whether the faster kernels are enabled. GEMM then beats PyTorch's fused attention kernel."""
    return _fast_gemm


def keep_freed_memory(largest: int = 1 << 28) -> None:
    """Let the allocator reuse freed blocks of up to `largest` bytes instead of requesting cleared pages.

    It does nothing without glibc. Older versions reuse only blocks of up to 32 MiB.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, largest) or library.mallopt(_MMAP_THRESHOLD, min(largest, 32 << 20))
        library.mallopt(_TRIM_THRESHOLD, min(8 * largest, 2**31 - 1))


@functools.cache
def _has_fast_gemm() -> bool:
    import torch

    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not torch.cuda.is_available()  # the setting would change GEMM on the GPU, too
        and torch.get_float32_matmul_precision() == "highest"  # else the user has chosen
        and _is_amd()
        and _keeps_float32()
    )


def _is_amd() -> bool:
    with suppress(OSError):
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "AuthenticAMD" in platform.processor()


def _keeps_float32() -> bool:
    """Return whether GEMM with "medium" is accurate to float32 rounding (that of bfloat16 is 4e-3)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    torch.set_float32_matmul_precision("medium")
    try:
        for rows, inner, columns in ((256, 384, 768), (256, 64, 784), (64, 784, 64)):
            a = torch.randn(rows, inner, generator=generator)
            b = torch.randn(inner, columns, generator=generator)
            exact = a.double() @ b.double()
            if (a @ b - exact).abs().max() > 1e-5 * exact.abs().max():
                return False
        return True
    finally:
        torch.set_float32_matmul_precision("highest")
