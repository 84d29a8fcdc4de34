"""Versions of the code, to store in checkpoints."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import vmae_det


def code_versions() -> dict[str, str]:
    """Return the versions of vmae_det, torch and python, and the commit if the package is in a git checkout.

    A commit ends in "-dirty" if files differ from it.
    """
    import torch  # here, so that `git_commit` works without torch

    versions = {
        "vmae_det": vmae_det.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    commit = git_commit(Path(vmae_det.__file__).resolve().parents[1])
    return versions | ({"commit": commit} if commit else {})


def git_commit(folder: Path) -> str | None:
    """Return the commit of a git checkout, with "-dirty" if files differ; None if the folder is not one."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
