"""Choose every setting of a training run from its data and the device: `vmae-det train --data FILE`.

`choose_config` returns a complete config and the list of its choices with their reasons. A key that the user
has set is never changed. docs/guides/train_your_data.md documents the rules. Each topic has its own module:
`auto_network`, `auto_data`, `auto_input` and `auto_schedule`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.config.checks import check_value
from vmae_det.data.catalog import get_dataset
from vmae_det.engine.auto_choices import Choice, Choices
from vmae_det.engine.auto_data import (
    check_data_labels,
    checked_val,
    choose_classes,
    choose_data,
    move_datasets,
    task_of,
)
from vmae_det.engine.auto_input import choose_input
from vmae_det.engine.auto_network import choose_network
from vmae_det.engine.auto_schedule import choose_evaluation, choose_schedule


@dataclass
class AutoConfig:
    """Result of `choose_config`: the frozen config, its choices, and warnings for the user."""

    cfg: CfgNode
    choices: list[Choice] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def choose_config(
    data: str,
    val: str = "",
    *,
    given_keys: frozenset[str] = frozenset(),
    base: Callable[[CfgNode], None] = lambda cfg: None,
    model: str = "",
    weights: str = "",
    processes: int = 1,
    folder: Path,
) -> AutoConfig:
    """Choose the settings of a training run.

    Args:
        data, val: names, dataset files or folders of videos (see `get_dataset`). Without `val`, videos are
            split into a training and a validation set.
        base: merges the user's config file and overrides into a config, on top of the recipe.
        given_keys: the keys that `base` sets, except DATASETS.TRAIN and TEST.
        model: tiny, small, base, large, huge, a config of the model zoo, or published weights. "" chooses.
        weights: file, URL or name of weights to start from.
        processes: of the run.
        folder: where to write the dataset files of a split. The config expects them in OUTPUT_DIR/data.

    Raises:
        UserError: the data, the weights or the given keys do not fit together.
    """
    given = get_cfg()
    base(given)
    for key in given_keys:
        check_value(given, key)
    spec = get_dataset(data, given.DATASETS.ROOT, "--data")
    task = task_of(spec, given, given_keys)
    val_spec = checked_val(val, spec, given)
    check_data_labels(spec)  # before weights are downloaded
    choices = Choices(spec, task, given_keys)
    choose_network(choices, model, weights, given, base)
    choose_data(choices, data, val_spec, val, folder)
    dataset = choose_classes(choices)
    move_datasets(choices, folder)
    choose_input(choices, dataset)
    choose_schedule(choices, dataset, processes)
    choose_evaluation(choices)
    for key in sorted(given_keys - {choice.key for choice in choices.listed}):
        choices.set(key, None, "")
    check_config(choices.cfg)
    choices.cfg.freeze()
    return AutoConfig(choices.cfg, choices.listed, choices.warnings)
