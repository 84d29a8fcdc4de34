"""A config that is chosen key by key: each choice has a reason. See `vmae_det.engine.auto_config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmae_det.config import get_cfg
from vmae_det.config.cfg_node import value_of
from vmae_det.data.catalog import DatasetSpec


@dataclass(frozen=True)
class Choice:
    """A config key with its value and the reason. `given`: the user has set it."""

    key: str
    value: Any
    reason: str
    given: bool = False


class Choices:
    """The config so far, with its choices. Later topics use the choices of earlier ones.

    Args:
        spec: the training set.
        task: of the model.
        given_keys: keys that the user has set.

    Attributes:
        cfg: the config.
        listed: the choices, in the order in which they were made.
        warnings: for the user.
        is_tiny: whether the network is that of the MiniAVA configs.
        recipe_crop: INPUT.CROP_SIZE of the recipe, or of the initial weights.
        side_ratios: short sides of the recipe, as keys, divided by its INPUT.CROP_SIZE.
    """

    def __init__(self, spec: DatasetSpec, task: str, given_keys: frozenset[str]) -> None:
        self.spec = spec
        self.task = task
        self.given_keys = given_keys
        self.cfg = get_cfg()
        self.listed: list[Choice] = []
        self.warnings: list[str] = []
        self.is_tiny = False
        self.recipe_crop = 0
        self.side_ratios: dict[str, float] = {}

    def set(self, key: str, value: Any, reason: str) -> None:
        """Set a key, unless the user has set it."""
        if key in self.given_keys:
            self.listed.append(Choice(key, value_of(self.cfg, key), "given", given=True))
        else:
            self.cfg.merge_from_list([key, value])
            self.listed.append(Choice(key, value_of(self.cfg, key), reason))
