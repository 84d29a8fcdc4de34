"""Differences between the config of a checkpoint and the config of the run that resumes from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from vmae_det.config.cfg_node import CfgNode, flatten, get_cfg

# Keys and groups of keys that do not affect the weights of a resumed run. All others may.
_HARMLESS = (
    *("OUTPUT_DIR", "WANDB.", "TEST.", "DATASETS.TEST", "DATASETS.ROOT"),
    # The weights of the checkpoint replace these.
    *("MODEL.WEIGHTS", "MODEL.BACKBONE.CHECKPOINT", "MODEL.ACTIVATION_CHECKPOINTING"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.CACHE_MB", "DATALOADER.TIMEOUT", "DATALOADER.MAX_BAD_FRACTION"),
    *("INPUT.TEST_SHORT_SIDE", "MODEL.ROI_HEAD.TEST_BOX_SCALE", "MODEL.ROI_HEAD.USE_PERSON_SCORE"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_CHECKPOINTS", "SOLVER.LOG_PERIOD"),
    *("SOLVER.ON_BAD_LOSS", "SOLVER.MAX_LOSS", "SOLVER.MAX_SKIPPED"),
)


class Difference(NamedTuple):
    """A key with different values.

    Args:
        harmless: the difference does not affect the weights.
    """

    key: str
    before: Any
    now: Any
    harmless: bool

    def __str__(self) -> str:
        return f"{self.key} {self.before!r} -> {self.now!r}"


def config_differences(before: str, now: CfgNode) -> list[Difference]:
    """Return the differences between the output of `dump` and a config.

    A key that is missing in `before` counts as its default. A key that no longer exists is ignored.
    """
    old = dict(flatten(yaml.safe_load(before) or {}))
    defaults = dict(flatten(yaml.safe_load(get_cfg().dump())))
    return [
        Difference(key, old.get(key, defaults[key]), value, key.startswith(_HARMLESS))
        for key, value in flatten(yaml.safe_load(now.dump()))
        if old.get(key, defaults[key]) != value
    ]
