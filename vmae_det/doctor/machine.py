"""Facts about the machine: operating system, CPU, memory, disks, limits. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import vmae_det
from vmae_det.doctor.report import FACT, FAILED, OK, WARNING, Finding
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.memory import format_bytes, machine_memory
from vmae_det.utils.versions import git_commit

SECTION = "Machine"
_SHARED_MEMORY = "/dev/shm"
_LOW_DISK, _FULL_DISK = 5_000_000_000, 100_000_000  # bytes; a checkpoint of ViT-B with its optimizer has 1 GB
_FULL_SHARED_MEMORY = 16 << 20  # bytes
_LOW_FILE_LIMIT = 1024  # torch shares each tensor of a batch through an open file
_CPU_QUOTA = "/sys/fs/cgroup/cpu.max"
# CPU features that PyTorch's kernels use, by their names in /proc/cpuinfo (Linux) and sysctl (macOS).
_CPU_FEATURES = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 BF16", "amx_tile": "AMX"}


def describe_machine(folder: Path) -> Iterator[Finding]:
    """Yield the facts about this machine.

    Args:
        folder: folder of outputs, whose disk is examined.
    """
    yield Finding(SECTION, "vmae_det", FACT, f"{vmae_det.__version__}, {_installation()}")
    yield Finding(SECTION, "system", FACT, _system())
    yield Finding(SECTION, "Python", FACT, f"{platform.python_version()} ({_environment()})")
    yield Finding(SECTION, "CPU", FACT, describe_cpu())
    yield Finding(SECTION, "memory", FACT, _memory())
    yield disk("disk, outputs", folder)
    yield disk("disk, temporary", Path(tempfile.gettempdir()))
    if os.path.isdir(_SHARED_MEMORY):
        yield shared_memory()
    limit = _open_file_limit()
    if limit is not None:
        low = limit < _LOW_FILE_LIMIT
        yield Finding(
            SECTION,
            "open files",
            WARNING if low else OK,
            f"limit {limit}",
            "run `ulimit -n 65536` before training with many loader workers" if low else "",
        )


def disk(name: str, folder: Path) -> Finding:
    """Return the free space of the disk of a folder, which need not exist yet."""
    folder = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return Finding(SECTION, name, FAILED, f"cannot be examined: {error.strerror}", "use another folder")
    text = f"{format_bytes(usage.free)} free of {format_bytes(usage.total)}"
    remedy = "delete old checkpoints, or use another disk (OUTPUT_DIR, TMPDIR); SOLVER.KEEP_CHECKPOINTS"
    if usage.free < _FULL_DISK:
        return Finding(SECTION, name, FAILED, f"full: {text}", remedy)
    if usage.free < _LOW_DISK:
        return Finding(SECTION, name, WARNING, f"nearly full: {text}", remedy)
    return Finding(SECTION, name, OK, text)


def shared_memory(needed: int = 0) -> Finding:
    """Return the size of /dev/shm, through which loader workers send batches.

    Args:
        needed: bytes of the batches that the workers of a config may hold; 0 only detects a full /dev/shm.
    """
    usage = shutil.disk_usage(_SHARED_MEMORY)
    text = f"{format_bytes(usage.free)} free of {format_bytes(usage.total)}"
    remedy = (
        f"delete unused files in {_SHARED_MEMORY}; in a container: docker run --shm-size=8g (or --ipc=host); "
        "or set DATALOADER.NUM_WORKERS 0"
    )
    if usage.free < _FULL_SHARED_MEMORY:
        return Finding(SECTION, _SHARED_MEMORY, FAILED, f"full: {text}", remedy)
    if usage.free < needed:
        text = f"too small: {text}; batches of the default config may need {format_bytes(needed)}"
        return Finding(SECTION, _SHARED_MEMORY, WARNING, text, remedy)
    return Finding(SECTION, _SHARED_MEMORY, OK, text)


def _installation() -> str:
    root = Path(vmae_det.__file__).resolve().parents[1]
    commit = git_commit(root)
    kind = "source folder, not installed"
    with suppress(importlib.metadata.PackageNotFoundError, ValueError):
        url = importlib.metadata.distribution("vmae_det").read_text("direct_url.json")
        editable = bool(url) and json.loads(url).get("dir_info", {}).get("editable", False)
        kind = "editable installation" if editable else "installed package"
    return f"{kind}, commit {commit[:10]}{'-dirty' * commit.endswith('-dirty')}" if commit else kind


def _system() -> str:
    name = f"{platform.system()} {platform.release()} {platform.machine()}"
    with suppress(OSError):  # also NotImplemented systems
        name += f", {platform.freedesktop_os_release()['PRETTY_NAME']}"
    library = " ".join(platform.libc_ver())
    inside = ", in a container" if _in_container() else ""
    return name + (f", {library}" if library.strip() else "") + inside


def _in_container() -> bool:
    return any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv"))


def _environment() -> str:
    if "CONDA_PREFIX" in os.environ:
        return "conda environment"
    return "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"


def describe_cpu() -> str:
    """Return the CPU's name, its cores and the features that matter for speed."""
    name, flags = platform.processor() or platform.machine(), ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if match := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            name = match[1]
        if match := re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE):
            flags = match[1]
    known = set(flags.split())
    features = [title for flag, title in _CPU_FEATURES.items() if flag in known]
    cores = count_cores()
    text = f"{name}, {cores} of {os.cpu_count()} cores usable"
    quota = _cpu_quota()
    if quota is not None:
        text += f", container limit {quota:g} cores"
    return text + (f"; {', '.join(features)}" if features else "")


def _cpu_quota() -> float | None:
    """Return the cores that a control group (version 2) allows; None if there is no limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = Path(_CPU_QUOTA).read_text(encoding="ascii").split()
        return int(quota) / int(period)
    return None


def _memory() -> str:
    total = machine_memory()
    text = f"{format_bytes(total)} in all"
    with suppress(OSError, ValueError):
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        sizes = {key: int(size) * 1024 for key, size in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.M)}
        text = f"{format_bytes(min(sizes['MemAvailable'], total))} available of {format_bytes(total)}"
        if total < 0.99 * sizes["MemTotal"]:
            text += f" (container limit; the machine has {format_bytes(sizes['MemTotal'])})"
    return text


def _open_file_limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
