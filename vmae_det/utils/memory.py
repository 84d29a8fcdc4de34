"""How much memory there is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

# Where Linux bounds the memory of a container, in versions 2 and 1 of control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container; a large number where nothing says."""
    sizes = [1 << 60]
    with suppress(ValueError, OSError, AttributeError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        with suppress(ValueError, OSError):
            sizes.append(int(Path(path).read_text(encoding="ascii")))
    return min(size for size in sizes if size > 0)


def device_memory(device: torch.device) -> int:
    """Bytes of memory of a GPU, or of this machine for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory()


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is how Python or torch tell that memory has run out."""
    # On the CPU torch has no class of errors.
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "DefaultCPUAllocator" in str(
        error
    )


def in_gb(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:,.1f} GB"
