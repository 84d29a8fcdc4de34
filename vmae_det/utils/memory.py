"""Size of the memory of this machine and of devices, and out-of-memory errors."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

# Memory limits of a container on Linux, in versions 2 and 1 of control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


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
        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether Python or torch raised this error because memory ran out."""
    # torch has no exception class for it on the CPU.
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "DefaultCPUAllocator" in str(
        error
    )


def in_gb(size: int) -> str:
    """Format a number of bytes."""
    return f"{size / 1e9:,.1f} GB"
