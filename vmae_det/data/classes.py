"""Classes of a model's outputs, and their matching with the classes of a dataset by name.

A model's classes are those of its first training set that has class names, in the order of its label map.
They are saved with its weights. Another dataset may have other ids and another order.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

_SIDED = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
_MAX_LISTED = 3


@dataclass(frozen=True)
class ModelClasses:
    """The classes of a model's outputs, in the order of the outputs.

    Attributes:
        label_map: the classes.
        source: the file that they come from, for messages.
    """

    label_map: LabelMap
    source: str

    @classmethod
    def from_checkpoint(cls, content: Any, source: str) -> ModelClasses | None:
        """Read the entry `label_map` of a checkpoint; None if it is empty.

        Raises:
            DataError: it is damaged.
        """
        return None if content is None else cls(LabelMap.from_fields(content, source), source)

    def to_checkpoint(self) -> dict[str, Any]:
        """Return the entry `label_map` of a checkpoint."""
        return {key: list(value) for key, value in asdict(self.label_map).items()}

    def columns_of(self, label_map: LabelMap, source: str) -> np.ndarray:
        """Find the classes of a label map among the model's outputs, by name.

        Returns:
            Output index of each class of the label map, int64.

        Raises:
            ConfigError: a name is not among the model's classes.
        """
        known = {name: column for column, name in enumerate(self.label_map.names)}
        missing = [name for name in label_map.names if name not in known]
        if missing:
            some = ", ".join(f"'{name}'" for name in missing[:_MAX_LISTED])
            some += ", ..." * (len(missing) > _MAX_LISTED)
            raise ConfigError(
                f"{source}: {len(missing)} of {len(label_map)} classes, {some}, are not among the "
                f"{len(known)} classes of {self.source}{did_you_mean(missing[0], known)}; classes are "
                "matched by name"
            )
        columns = np.array([known[name] for name in label_map.names], dtype=np.int64)
        if label_map.ids != self.label_map.select(columns).ids or (np.diff(columns) < 0).any():
            logger.warning(
                "%s: ids or order differ from %s; classes are matched by name", source, self.source
            )
        return columns

    def renumbered(self, label_map: LabelMap, source: str) -> LabelMap:
        """Return these classes in their order, with the ids and kinds of another label map.

        Raises:
            ConfigError: the names differ, or some are missing.
        """
        columns = self.columns_of(label_map, source)
        if len(columns) < len(self.label_map):
            raise ConfigError(
                f"{source}: {len(columns)} classes, but {self.source} has {len(self.label_map)}; all of them "
                "are required"
            )
        return label_map.select(np.argsort(columns))


def sided_classes(label_map: LabelMap | None) -> list[str]:
    """Return the names of classes that contain the word left or right, such as "turn left"."""
    return [name for name in label_map.names if _SIDED.search(name)] if label_map else []
