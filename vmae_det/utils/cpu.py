"""What a CPU does better than PyTorch asks of it: products of matrices on AMD, memory that is used again.

PyTorch hands float32 products to Intel's MKL, which on AMD keeps to AVX2: half of what AVX-512 gives. oneDNN,
a part of PyTorch too, has AVX-512, but is given them only where PyTorch's precision is "medium", which allows
bfloat16 inside of them. oneDNN takes that up with AMX alone, which AMD has not; otherwise the products are
float32's own, and `_keeps_float32` makes sure of it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_fast = False


def count_cores() -> int:
    """CPU cores that this process may use."""
    with suppress(AttributeError):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_fast_gemm(on: bool = True) -> None:
    """Use the quicker products in this process's models from now on, where this CPU has them; or no more."""
    global _fast
    if on != _fast and _has_quicker_products():
        torch.set_float32_matmul_precision("medium" if on else "highest")
        _fast = on


def is_fast_gemm_enabled() -> bool:
    """Whether products of matrices are quicker than the fused attention that PyTorch has for this CPU."""
    return _fast


def keep_freed_memory(largest: int = 1 << 28) -> None:
    """Use again what was freed, blocks of up to `largest` bytes, where the system would else clear new pages.

    It does nothing without glibc. Older ones keep blocks of up to 32 MiB alone.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, largest) or library.mallopt(_MMAP_THRESHOLD, min(largest, 32 << 20))
        library.mallopt(_TRIM_THRESHOLD, min(8 * largest, 2**31 - 1))


@functools.cache
def _has_quicker_products() -> bool:
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not torch.cuda.is_available()  # whose products the setting would change, too
        and torch.get_float32_matmul_precision() == "highest"  # else somebody has chosen already
        and _is_amd()
        and _keeps_float32()
    )


def _is_amd() -> bool:
    with suppress(OSError):
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "AuthenticAMD" in platform.processor()


def _keeps_float32() -> bool:
    """Whether products under "medium" are right to float32's rounding; bfloat16's is 4e-3."""
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
