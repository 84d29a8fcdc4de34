"""What differs between the config of a checkpoint and that of the run that goes on from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from vmae_det.config.cfg_node import CfgNode, flatten, get_cfg

# Keys, and groups of keys, on which no weight of a resumed run depends. All others may change them.
_HARMLESS = (
    *("OUTPUT_DIR", "WANDB.", "TEST.", "DATASETS.TEST", "DATASETS.ROOT"),
    # The checkpoint's weights take the place of these.
    *("MODEL.WEIGHTS", "MODEL.BACKBONE.CHECKPOINT", "MODEL.ACTIVATION_CHECKPOINTING"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.CACHE_MB", "DATALOADER.TIMEOUT", "DATALOADER.MAX_BAD_FRACTION"),
    *("INPUT.TEST_SHORT_SIDE", "MODEL.ROI_HEAD.TEST_BOX_SCALE", "MODEL.ROI_HEAD.USE_PERSON_SCORE"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_CHECKPOINTS", "SOLVER.LOG_PERIOD"),
    *("SOLVER.ON_BAD_LOSS", "SOLVER.MAX_LOSS", "SOLVER.MAX_SKIPPED"),
)


class Difference(NamedTuple):
    """A key with two values.

    Args:
        harmless: whether the weights of the run stay what they would have been.
    """

    key: str
    before: Any
    now: Any
    harmless: bool

    def __str__(self) -> str:
        return f"{self.key} {self.before!r} -> {self.now!r}"


def config_differences(before: str, now: CfgNode) -> list[Difference]:
    """The keys in which a config differs from one that `dump` gave.

    A key that the older one lacks had its default; one that is no more is passed over.
    """
    old = dict(flatten(yaml.safe_load(before) or {}))
    defaults = dict(flatten(yaml.safe_load(get_cfg().dump())))
    return [
        Difference(key, old.get(key, defaults[key]), value, key.startswith(_HARMLESS))
        for key, value in flatten(yaml.safe_load(now.dump()))
        if old.get(key, defaults[key]) != value
    ]
