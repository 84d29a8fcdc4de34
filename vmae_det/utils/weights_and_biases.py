"""Write metrics to Weights & Biases (WANDB.PROJECT)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from vmae_det.utils.errors import ConfigError
from vmae_det.utils.events import Writer
from vmae_det.utils.output_files import write_text

RUN_ID = "wandb_run_id.txt"


class WandbWriter(Writer):
    """Log to a run of the project. Its id is stored in the folder, so that a resumed run continues it.

    Server and account are set by wandb's environment variables (WANDB_MODE, WANDB_ENTITY, WANDB_NAME, ...).

    Args:
        folder: of the run; wandb writes its own files there, too.
        config: shown with the run.
        resumed: continue the run whose id is stored.

    Raises:
        ConfigError: wandb is not installed, or cannot start a run.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, project: str, config: dict[str, Any], resumed: bool) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError(
                f"WANDB.PROJECT: '{project}' needs wandb, which is not installed; "
                "pip install 'vmae_det[wandb]', or leave the key empty"
            ) from None
        try:
            self._run = wandb.init(
                project=project, id=_run_id(folder, resumed), resume="allow", dir=str(folder), config=config
            )
        except wandb.Error as error:
            raise ConfigError(f"WANDB.PROJECT: '{project}': wandb cannot start a run: {error}") from None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log metrics. wandb drops those of steps that are repeated after resuming."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Finish the upload."""
        self._run.finish()


def _run_id(folder: Path, resumed: bool) -> str:
    path = folder / RUN_ID
    if resumed and path.exists():
        return path.read_text(encoding="utf-8").strip()
    run_id = uuid.uuid4().hex[:12]
    write_text(path, run_id + "\n")
    return run_id
