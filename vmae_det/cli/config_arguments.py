"""Config arguments of a command: `--config-file`, `KEY VALUE` overrides, and the resulting config."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vmae_det import model_zoo
from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.config.cfg_node import flatten, value_of
from vmae_det.config.checks import NUM_CLASSES_KEYS
from vmae_det.config.origins import Origin, origins_in_files
from vmae_det.config.ranges import AUTO
from vmae_det.utils.errors import ConfigError, did_you_mean

# Keys that the weights determine: their network and its input pixels.
_MODEL_KEYS = (
    *("MODEL.META_ARCHITECTURE", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    *(f"MODEL.BACKBONE.{key}" for key in ("NAME", "EMBED_DIM", "DEPTH", "NUM_HEADS", "MLP_RATIO")),
    *(f"MODEL.BACKBONE.{key}" for key in ("PATCH_SIZE", "TUBELET_SIZE", "POSITIONS", "CLASS_TOKEN")),
    "MODEL.BACKBONE.STAGES",
    *(f"MODEL.DECODER.{key}" for key in ("EMBED_DIM", "DEPTH", "NUM_HEADS")),
    *(f"MODEL.RECONSTRUCTION.{key}" for key in ("NORMALIZE", "NUM_FRAMES", "SAMPLING_RATE")),
    *("MODEL.CLASSIFIER.NUM_CLASSES", "MODEL.ROI_HEAD.NAME", "MODEL.ROI_HEAD.NUM_CLASSES"),
    *(f"MODEL.ROI_HEAD.{key}" for key in ("RESOLUTION", "SAMPLING_RATIO", "ALIGNED", "TEMPORAL_POOL")),
    *(f"MODEL.ROI_HEAD.{key}" for key in ("CONTEXT", "NUM_LAYERS", "HIDDEN_DIM")),
    *(f"MODEL.ROI_HEAD.{key}" for key in ("ATTENTION_LAYERS", "ATTENTION_HEADS")),
    *(f"MODEL.PERSON_HEAD.{key}" for key in ("NAME", "BLOCKS", "CHANNELS", "NUM_CONVS")),
    *(f"INPUT.{key}" for key in ("NUM_FRAMES", "CROP_SIZE", "TEST_SHORT_SIDE", "CONVENTION")),
)
_RUN_KEYS = ("OUTPUT_DIR", "WANDB.")  # never taken from the run that produced the weights


def add_config_arguments(
    parser: argparse.ArgumentParser, config_help: str = "YAML file, or name of a config in the model zoo"
) -> None:
    """Add `--config-file` and the positional `KEY VALUE` overrides."""
    parser.add_argument("--config-file", metavar="FILE", default="", help=config_help)
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="override config keys, e.g. SOLVER.EPOCHS 5; must come after all options",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Document the `KEY VALUE` pairs of a command with several positional arguments.

    `overrides.split_overrides` removes the pairs before argparse runs; `--opts` exists for the help text.
    """
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="override config keys; must come last; the word --opts may be omitted",
    )


def load_config(
    config_file: str, opts: list[str], find_config: Callable[[str], CfgNode | None] | None = None
) -> CfgNode:
    """Return the config of a command, checked and frozen.

    Later sources override earlier ones: defaults, the config stored with MODEL.WEIGHTS, the config file, the
    overrides. If there is a config file, the stored config only sets the keys that describe the network and
    its input pixels.

    Args:
        config_file: path or name in the model zoo; "" for none.
        opts: alternating keys and values.
        find_config: returns the config stored with weights, or None. The default reads checkpoints;
            `inference.predictor.find_config` also reads exported models.

    Raises:
        ConfigError: the file does not exist, or a key or value is invalid.
        WeightsError: MODEL.WEIGHTS cannot be read.
    """
    return _load(config_file, opts, find_config).cfg


class ResolvedConfig(NamedTuple):
    """The config of a command, with the origin of each value.

    Args:
        cfg: the config, as `load_config` returns it.
        base: the config without the config file and the overrides.
        origins: origin by key. A key that is missing has its default.
    """

    cfg: CfgNode
    base: CfgNode
    origins: dict[str, Origin]


def resolve_config(
    config_file: str, opts: list[str], find_config: Callable[[str], CfgNode | None] | None = None
) -> ResolvedConfig:
    """Return what `load_config` returns for the same arguments, with the origin of each value."""
    loaded = _load(config_file, opts, find_config)
    origins = {key: Origin("weights", loaded.cfg.MODEL.WEIGHTS) for key in loaded.stored_keys}
    if config_file:
        for key, origin in origins_in_files(find_config_file(config_file)).items():
            origins[key] = origin._replace(source=_short_path(origin.source))
    origins |= {key: Origin("command line") for key in opts[0::2]}
    origins |= {key: origins[key]._replace(is_auto=True) for key in loaded.auto_keys}
    return ResolvedConfig(loaded.cfg, loaded.base, origins)


class _Loaded(NamedTuple):
    """A config, the keys that the weights set in its base, and the keys whose value was `auto`."""

    cfg: CfgNode
    base: CfgNode
    stored_keys: list[str]
    auto_keys: list[str]


def _load(config_file: str, opts: list[str], find_config: Callable[[str], CfgNode | None] | None) -> _Loaded:
    base, stored, stored_keys = get_cfg(), None, []
    cfg = _merge(base.clone(), config_file, opts)
    if cfg.MODEL.WEIGHTS:
        stored = (find_config or _config_of_checkpoint)(cfg.MODEL.WEIGHTS)
    if stored is not None:
        for key, value in flatten(stored):
            if key in _MODEL_KEYS or not (config_file or key.startswith(_RUN_KEYS)):
                base.merge_from_list([key, value])
                stored_keys.append(key)
        cfg = _merge(base.clone(), config_file, opts)
    check_config(cfg)
    auto = [key for key in NUM_CLASSES_KEYS.values() if value_of(cfg, key) == AUTO]
    if auto:
        from vmae_det.engine.num_classes import resolve_num_classes

        resolve_num_classes(cfg, stored)
    cfg.freeze()
    return _Loaded(cfg, base, stored_keys, [key for key in auto if value_of(cfg, key) != AUTO])


def _config_of_checkpoint(weights: str) -> CfgNode | None:
    from vmae_det.checkpoint import read_checkpoint
    from vmae_det.checkpoint.stored_config import stored_config

    return stored_config(read_checkpoint(weights), weights)


def _merge(cfg: CfgNode, config_file: str, opts: list[str]) -> CfgNode:
    if config_file:
        cfg.merge_from_file(find_config_file(config_file))
    cfg.merge_from_list(opts)
    return cfg


def _short_path(path: str) -> str:
    """Return a path without `..`, relative to the working directory if it is inside."""
    relative = os.path.relpath(path)
    return os.path.normpath(path) if relative.startswith(os.pardir) else relative


def find_config_file(config_file: str) -> Path:
    """Return the file of --config-file: a path, or a name in the model zoo."""
    path = Path(config_file)
    if path.exists() and not path.is_dir():
        return path
    try:
        return model_zoo.get_config_file(config_file)
    except ConfigError:
        hint = did_you_mean(config_file, model_zoo.config_names())
        raise ConfigError(
            f"--config-file: {config_file} is neither a file nor a config of the model zoo{hint}"
        ) from None
