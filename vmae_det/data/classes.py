"""Which of a model's outputs stands for which class: models and datasets are matched by class names.

A model's classes are those of its first training set that names them, in the order of its label map, and they
travel with its weights. Another set may give them other ids and another order.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

_SHOWN = 3


@dataclass(frozen=True)
class ModelClasses:
    """The classes that a model's outputs stand for, in their order, and where this is known from."""

    label_map: LabelMap
    source: str

    @classmethod
    def from_checkpoint(cls, content: Any, source: str) -> ModelClasses | None:
        """What weights hold under `label_map`, None where that is nothing.

        Raises:
            DataError: it is damaged, as a file of it could be.
        """
        return None if content is None else cls(LabelMap.from_fields(content, source), source)

    def to_checkpoint(self) -> dict[str, Any]:
        """The same as `from_checkpoint` takes it."""
        return {key: list(value) for key, value in asdict(self.label_map).items()}

    def columns_of(self, label_map: LabelMap, source: str) -> np.ndarray:
        """int64 column among these classes of each class of a label map, by name.

        Raises:
            ConfigError: a name is not among these classes.
        """
        known = {name: column for column, name in enumerate(self.label_map.names)}
        missing = [name for name in label_map.names if name not in known]
        if missing:
            some = ", ".join(f"'{name}'" for name in missing[:_SHOWN]) + ", ..." * (len(missing) > _SHOWN)
            raise ConfigError(
                f"{source}: {len(missing)} of {len(label_map)} classes, {some}, are not among the "
                f"{len(known)} classes of {self.source}{did_you_mean(missing[0], known)}; classes are "
                "matched by name"
            )
        columns = np.array([known[name] for name in label_map.names], dtype=np.int64)
        if label_map.ids != self.label_map.select(columns).ids or (np.diff(columns) < 0).any():
            logger.warning("%s: other ids or another order than %s: matched by name", source, self.source)
        return columns

    def renumbered(self, label_map: LabelMap, source: str) -> LabelMap:
        """These classes in their order, with the ids and kinds of another label map of the same names.

        Raises:
            ConfigError: it has other names, or fewer.
        """
        columns = self.columns_of(label_map, source)
        if len(columns) < len(self.label_map):
            raise ConfigError(
                f"{source}: {len(columns)} classes, but {self.source} has {len(self.label_map)}; it must "
                "name them all"
            )
        return label_map.select(np.argsort(columns))
