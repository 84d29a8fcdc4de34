"""Size of the memory of this machine and of devices, and out-of-memory errors."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_det.utils.errors import UserError

if TYPE_CHECKING:  # `machine_memory` works without torch
    import torch

# Memory limits of a container on Linux, in versions 2 and 1 of control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Parts of messages of errors that have no class of their own.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",  # outside of PyTorch's allocator, such as for a CUDA context
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


def machine_memory() -> int:
    """Return the memory of this machine or container in bytes; a large number if it is unknown."""
    sizes = [1 << 60]
    with suppress(ValueError, OSError, AttributeError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        with suppress(ValueError, OSError):
            sizes.append(int(Path(path).read_text(encoding="ascii")))
    return min(size for size in sizes if size > 0)


def device_memory(device: torch.device) -> int:
    """Return the memory of a device in bytes; for the CPU, that of this machine."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether Python, torch, CUDA, cuBLAS or Metal raised this error because memory ran out."""
    import torch

    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def out_of_memory_error(error: Exception) -> UserError:
    """Return the error to report if `is_out_of_memory(error)`: one line, with the settings to change."""
    problem = str(error).partition("\n")[0][:300] or "no more memory"
    return UserError(
        f"out of memory ({problem}); for training, use a larger SOLVER.ACCUMULATE, a smaller "
        "SOLVER.BATCH_SIZE or MODEL.ACTIVATION_CHECKPOINTING True; for testing and detection, a smaller "
        "TEST.BATCH_SIZE or PERSON_DETECTOR.BATCH_SIZE"
    )


def format_bytes(size: float) -> str:
    """Format a number of bytes: in GB, or in MB below 0.1 GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
