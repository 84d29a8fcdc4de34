"""The grid of a study: its cells, and the runs that they need. Runs that are equal are the same run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.config.cfg_node import flatten
from vmae_det.config.defaults import KEYS
from vmae_det.engine.evaluation import dataset_labels
from vmae_det.evaluation.evaluators import EVALUATOR_REGISTRY
from vmae_det.modeling import model_class
from vmae_det.studies.study_file import MEASURES, Settings, Study, find_base_config, matches
from vmae_det.utils.errors import ConfigError, did_you_mean
from vmae_det.utils.registry import lookup

WEIGHTS_KEY = "MODEL.BACKBONE.CHECKPOINT"  # set to the weights of the run that a run starts from
# Keys that do not affect the result of a run: where it writes, and what it starts from, which is its parent.
_NOT_COMPARED = ("OUTPUT_DIR", "WANDB.")
_HASH_DIGITS = 8


@dataclass(frozen=True, eq=False)
class Run:
    """One stage of one or several cells, with one seed.

    Args:
        stage: name of the stage.
        cfg: its config, without OUTPUT_DIR and the weights of the parent.
        parent: the run from whose weights it starts; None for the weights of the config, or random ones.
        identity: hash of the config and of that of the parent. Runs with the same identity are equal.
    """

    stage: str
    cfg: CfgNode
    parent: Run | None
    identity: str

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.stage}-seed{self.cfg.SEED}-{self.identity[:_HASH_DIGITS]}"


@dataclass(frozen=True)
class Cell:
    """A combination of one level of each factor.

    Args:
        levels: level by factor.
        runs: run by stage and seed. Stages that the cell skips are missing.
    """

    levels: Mapping[str, str]
    runs: Mapping[tuple[str, int], Run] = field(repr=False)

    @property
    def name(self) -> str:
        """The levels, such as "tube, 0.9"."""
        return ", ".join(self.levels.values())


@dataclass(frozen=True)
class Grid:
    """The cells of a study.

    Args:
        study: the study.
        seeds: seeds of each cell.
        cells: in the order of the factors and levels.
    """

    study: Study
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]

    def runs(self) -> list[Run]:
        """Return the different runs, in the order in which to start them.

        A run follows its parent. All cells come with the first seed, then with the next one, so that early
        results compare all cells.
        """
        order = [
            cell.runs[stage, seed]
            for seed in self.seeds
            for cell in self.cells
            for stage in self.study.stages
            if (stage, seed) in cell.runs
        ]
        return list(dict.fromkeys(order))

    @property
    def base(self) -> Cell:
        """The cell that others are compared with."""
        return next(cell for cell in self.cells if cell.levels == self.study.base)

    def lower_is_better(self, metric: Any) -> bool:
        """Return whether lower values of a metric are better."""
        if metric.name in MEASURES:
            return True
        cfgs = (
            run.cfg for cell in self.cells for (stage, _), run in cell.runs.items() if stage == metric.stage
        )
        return any(_evaluator(cfg).lower_is_better for cfg in cfgs)


def build_grid(study: Study, seeds: Sequence[int] = (), opts: Sequence[str] = (), datasets: str = "") -> Grid:
    """Build the configs of all runs of a study.

    Args:
        study: the study.
        seeds: replace those of the file.
        opts: alternating config keys and values, which override those of all stages.
        datasets: DATASETS.ROOT of all runs; empty keeps that of the configs.

    Raises:
        DataError: the config of a cell is invalid.
        ConfigError: `opts` is invalid.
    """
    get_cfg().merge_from_list(list(opts))  # an error of these is not one of the file
    seeds = tuple(seeds) or study.seeds
    builder = _RunBuilder(study, (*(("DATASETS.ROOT", datasets) if datasets else ()), *opts))
    cells = []
    for levels in itertools.product(*(study.factors[factor] for factor in study.factors)):
        named = dict(zip(study.factors, levels))
        if not any(matches(named, entry) for entry in study.skip):
            cells.append(Cell(named, builder.runs(named, seeds)))
    _check_metrics(study, cells)
    return Grid(study, seeds, tuple(cells))


class _RunBuilder:
    """Builds the runs of cells, each different one once."""

    def __init__(self, study: Study, opts: Sequence[str]) -> None:
        self.study = study
        self.opts = list(opts)
        self.configs: dict[str, CfgNode] = {}  # by file
        self.built: dict[tuple[str, str], Run] = {}  # by stage and identity

    def runs(self, levels: Mapping[str, str], seeds: Sequence[int]) -> dict[tuple[str, int], Run]:
        """Return the runs of a cell by stage and seed."""
        stages = {stage: self.settings(stage, levels) for stage in self.study.stages}
        runs: dict[tuple[str, int], Run] = {}
        for stage, settings in stages.items():
            if settings is None:
                continue
            source = _source(stage, stages, self.study.stages)
            cfg = self.config(stage, settings, levels, bool(source))
            for seed in seeds:
                runs[stage, seed] = self.run(stage, cfg, seed, runs[source, seed] if source else None)
        if not runs:
            raise self.study.error(f"{describe(levels)}: all stages are skipped; add it to skip")
        return runs

    def settings(self, stage: str, levels: Mapping[str, str]) -> Settings | None:
        """Return the settings of a stage with the changes of a cell's levels; None if the cell skips it."""
        result = self.study.stages[stage]
        of_levels = [self.study.factors[factor][level] for factor, level in levels.items()]
        of_cell = [changes for some, changes in self.study.combinations if matches(levels, some)]
        for changes in (*of_levels, *of_cell):
            if stage not in changes:
                continue
            change = changes[stage]
            if change is None:
                return None
            result = Settings(
                change.config or result.config,
                result.source if change.source is None else change.source,
                {**result.keys, **change.keys},
            )
        return result

    def config(self, stage: str, settings: Settings, levels: Mapping[str, str], has_parent: bool) -> CfgNode:
        """Return the config of a stage of a cell."""
        where = f"{describe(levels)}, stage {stage}"
        if has_parent and settings.keys.get(WEIGHTS_KEY):
            problem = f"{WEIGHTS_KEY} is set, but the stage starts from another one; add from: null"
            raise self.study.error(f"{where}: {problem}", WEIGHTS_KEY)
        try:
            if settings.config not in self.configs:
                self.configs[settings.config] = cfg = get_cfg()
                cfg.merge_from_file(find_base_config(self.study.path, settings.config))
            cfg = self.configs[settings.config].clone()
            cfg.merge_from_other_cfg(settings.keys)
            cfg.merge_from_list(self.opts)
            check_config(cfg)
        except ConfigError as error:
            raise self.study.error(f"{where}: {error}", str(error).partition(":")[0]) from None
        return cfg

    def run(self, stage: str, cfg: CfgNode, seed: int, parent: Run | None) -> Run:
        """Return the run of a config with a seed."""
        cfg = cfg.clone()
        cfg.SEED = seed
        if parent:
            cfg.MODEL.BACKBONE.CHECKPOINT = ""
        cfg.freeze()
        content = {
            key: value for key, value in compared_values(cfg).items() if value != as_json(KEYS[key].default)
        }
        text = json.dumps([content, parent and parent.identity], sort_keys=True)
        identity = hashlib.sha256(text.encode()).hexdigest()
        return self.built.setdefault((stage, identity), Run(stage, cfg, parent, identity))


def compared_values(cfg: CfgNode) -> dict[str, Any]:
    """Return the values that make a run what it is, by key, as JSON has them."""
    return {key: as_json(value) for key, value in flatten(cfg) if not key.startswith(_NOT_COMPARED)}


def describe(levels: Mapping[str, str]) -> str:
    """Return the levels of a cell in words, such as "mask tube, ratio 0.9"."""
    return ", ".join(f"{factor} {level}" for factor, level in levels.items())


def as_json(value: Any) -> Any:
    """Return the value of a config key as it is in a JSON file: lists instead of tuples."""
    return [as_json(item) for item in value] if isinstance(value, (tuple, list)) else value


def _source(stage: str, settings: Mapping[str, Settings | None], original: Mapping[str, Settings]) -> str:
    """Return the stage whose weights a stage of a cell starts from; "" for none.

    If the cell skips that stage, it is the one from which the skipped stage would start.
    """
    source = settings[stage].source
    while source and settings[source] is None:
        source = original[source].source
    return source or ""


def _check_metrics(study: Study, cells: Sequence[Cell]) -> None:
    """Check that runs have the metrics of their stages.

    Raises:
        DataError: a stage has no such metric.
    """
    for metric in study.metrics:
        cfgs = {
            (run.cfg.MODEL.META_ARCHITECTURE, run.cfg.DATASETS.TEST): run.cfg
            for cell in cells
            for (stage, _), run in cell.runs.items()
            if stage == metric.stage
        }
        for cfg in cfgs.values():
            known = _metric_names(cfg)
            if metric.name not in MEASURES and metric.name not in known:
                hint = did_you_mean(metric.name, [*known, *MEASURES])
                raise study.error(
                    f"{metric}: {cfg.MODEL.META_ARCHITECTURE} has no such metric{hint}",
                    f"{metric.stage}.metrics",
                )


def _evaluator(cfg: CfgNode) -> Any:
    return lookup(EVALUATOR_REGISTRY, model_class(cfg).task, "MODEL.META_ARCHITECTURE (its task)")


def _metric_names(cfg: CfgNode) -> list[str]:
    if not cfg.DATASETS.TEST:
        return []
    names = _evaluator(cfg).metrics_of(cfg)
    if len(cfg.DATASETS.TEST) == 1:
        return list(names)
    return [f"{label}/{name}" for label in dataset_labels(cfg.DATASETS.TEST).values() for name in names]
