"""Study files: the YAML file that describes the stages, factors, seeds and findings of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmae_det import model_zoo
from vmae_det.config import get_cfg
from vmae_det.config.cfg_node import flatten
from vmae_det.config.checks import check_value
from vmae_det.config.ranges import format_value
from vmae_det.utils.errors import ConfigError, DataError, did_you_mean
from vmae_det.utils.safe_yaml import InvalidYAMLError, read_key_lines, read_yaml

MAX_SEED = 2**32 - 1
MAX_SEEDS = 1000
_SET_BY_STUDY = ("OUTPUT_DIR", "SEED")
# Measures of every run, which it stores itself. Lower is better, if it is a matter of good and bad.
MEASURES = {
    "seconds": "wall-clock time of the run, without the import of torch",
    "memory": "peak memory in MB: on a GPU what torch allocated, otherwise of the process",
    "parameters": "number of parameters of the model, in millions",
    "loss": "training loss at the end of the run",
}

Levels = Mapping[str, str]  # level by factor


@dataclass(frozen=True)
class Settings:
    """What a stage sets, or what a level changes in a stage.

    Args:
        config: file of the base config, as written; None to keep that of the stage.
        source: stage to start from; "" for none; None to keep that of the stage.
        keys: config keys, which follow the base config.
    """

    config: str | None = None
    source: str | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)


Changes = Mapping[str, "Settings | None"]  # by stage; None skips the stage


@dataclass(frozen=True)
class Metric:
    """A result of a stage.

    Args:
        stage: name of the stage.
        name: name in its results.json, or one of MEASURES.
    """

    stage: str
    name: str

    def __str__(self) -> str:
        return f"{self.stage}/{self.name}"


@dataclass(frozen=True)
class Finding:
    """A claim to check: that cells with some levels have a better value of a metric than others.

    Args:
        claim: one sentence.
        source: where it is published.
        better, worse: levels of the same factors. Cells are compared in pairs that agree in the others.
        metric: the metric.
    """

    claim: str
    source: str
    better: Levels
    worse: Levels
    metric: Metric


@dataclass(frozen=True)
class Study:
    """The content of a study file.

    Args:
        path: the file.
        name: its name without suffix.
        title, question: for the report.
        seeds: random seeds; every cell runs with each.
        stages: settings by stage, in the order in which they run.
        metrics: results to report, in this order.
        main_metric: metric of the plot and of the matrix.
        factors: levels by factor, and by level the changes of each stage; None skips the stage.
        combinations: further changes of each stage in the cells with some levels, which follow those of the
            levels.
        skip: combinations of levels that are not run.
        base: levels of the cell that the others are compared with.
        findings: claims to check.
    """

    path: Path
    name: str
    title: str
    question: str
    seeds: tuple[int, ...]
    stages: Mapping[str, Settings]
    metrics: tuple[Metric, ...]
    main_metric: Metric
    factors: Mapping[str, Mapping[str, Changes]]
    combinations: tuple[tuple[Levels, Changes], ...]
    skip: tuple[Levels, ...]
    base: Levels
    findings: tuple[Finding, ...]

    def error(self, problem: str, key: str = "") -> DataError:
        """Return an error about this file, at the line that sets a config key if one does."""
        lines = [line for name, line in read_key_lines(self.path).items() if key and name.endswith(f".{key}")]
        return DataError(problem, self.path, lines[-1] if lines else None)


def study_names() -> list[str]:
    """Return the names of the studies of the model zoo."""
    return sorted(path.stem for path in (model_zoo.config_folder() / model_zoo.STUDIES).glob("*.yaml"))


def find_study(name: str) -> Path:
    """Return the file of a study: the path of a file, or a name in the model zoo.

    Raises:
        ConfigError: there is no such study.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.exists():
        return path
    known = study_names()
    if path.name.removesuffix(".yaml") in known and path.parent in (
        Path(),
        Path(model_zoo.STUDIES),
        Path("configs", model_zoo.STUDIES),
    ):
        return model_zoo.config_folder() / model_zoo.STUDIES / f"{path.name.removesuffix('.yaml')}.yaml"
    raise ConfigError(
        f"{name}: neither a study file (.yaml) nor a study of the model zoo{did_you_mean(name, known)}"
    )


def read_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        DataError: it cannot be read, or its content is invalid. The message has the line.
    """
    try:
        content = read_yaml(path)
        lines = read_key_lines(path) if isinstance(content, dict) else {}
    except InvalidYAMLError as error:
        raise DataError(str(error), path, error.line) from None
    except FileNotFoundError:
        raise DataError("no such study file", path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from None
    return _Parser(path, lines).study(content)


class _Parser:
    """Converts the content of a study file. Every method takes a value and where it is in the file."""

    def __init__(self, path: Path, lines: Mapping[str, int]) -> None:
        self.path = path
        self.lines = lines

    def error(self, where: tuple[Any, ...], problem: str) -> DataError:
        """Return an error with the line of a value, or of the nearest key above it."""
        name = ": ".join(map(str, where))
        for end in range(len(where), 0, -1):
            line = self.lines.get(".".join(map(str, where[:end])))
            if line is not None:
                return DataError(f"{name}: {problem}", self.path, line)
        return DataError(f"{name}: {problem}" if name else problem, self.path)

    # ------------------------------------------------------------ values

    def mapping(self, value: Any, where: tuple[Any, ...], what: str) -> dict[Any, Any]:
        """Return a mapping; nothing is an empty one."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(where, f"expected {what}, got {format_value(value)}")
        return value

    def items(self, value: Any, where: tuple[Any, ...], what: str) -> list[Any]:
        """Return a list; nothing is an empty one."""
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(where, f"expected a list of {what}, got {format_value(value)}")
        return value

    def known(
        self,
        content: Mapping,
        where: tuple[Any, ...],
        *,
        required: Iterable[str],
        optional: Iterable[str] = (),
    ) -> None:
        """Check the keys of a mapping."""
        known = [*required, *optional]
        for key in content:
            if key not in known:
                raise self.error((*where, key), f"unknown key{did_you_mean(str(key), known)}")
        for key in required:
            if content.get(key) is None:
                raise self.error(where, f"{key} is missing" if where else f"the key {key} is missing")

    def text(self, value: Any, where: tuple[Any, ...]) -> str:
        """Return a text that is not empty, as one line."""
        if not isinstance(value, str) or not value.strip():
            raise self.error(where, f"expected a text, got {format_value(value)}")
        return " ".join(value.split())

    def name(self, value: Any, where: tuple[Any, ...]) -> str:
        """Return the name of a stage, factor or level. A level may be a number."""
        if isinstance(value, bool) or value is None:
            raise self.error((*where, value), "YAML reads this name as a special value; put it in quotes")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error((*where, value), "expected a finite number")
        text = str(value)
        if not isinstance(value, (str, int, float)) or not text.strip() or len(text) > 60:
            raise self.error((*where, value), "expected a name of at most 60 characters")
        return text

    # ------------------------------------------------------------ the file

    def study(self, content: Any) -> Study:
        """Convert the file."""
        if not isinstance(content, dict):
            raise self.error((), "expected a mapping with the keys title, stages, factors, ...")
        self.known(
            content,
            (),
            required=("title", "question", "stages", "factors"),
            optional=("seeds", "combinations", "skip", "base", "findings", "main_metric"),
        )
        stages, metrics = self.stages(content["stages"])
        factors = self.factors(content["factors"], stages)
        first = {name: next(iter(levels)) for name, levels in factors.items()}
        base = self.levels(content["base"], ("base",), factors) if content.get("base") is not None else first
        if set(base) != set(factors):
            missing = next(name for name in factors if name not in base)
            raise self.error(("base",), f"expected a level of each factor; {missing} is missing")
        combinations = tuple(
            self.combination(entry, ("combinations", number), factors, stages)
            for number, entry in enumerate(
                self.items(content.get("combinations"), ("combinations",), "levels with changes by stage")
            )
        )
        skip = tuple(
            self.levels(entry, ("skip", number), factors)
            for number, entry in enumerate(self.items(content.get("skip"), ("skip",), "levels by factor"))
        )
        if any(matches(base, entry) for entry in skip):
            raise self.error(("base",), "this cell is one of those to skip")
        findings = self.items(content.get("findings"), ("findings",), "findings")
        main = content.get("main_metric")
        # The first metric of the last stage that has one, and that is not a measure.
        last = [metric for metric in metrics if metric.name not in MEASURES] or metrics
        default = next(metric for metric in last if metric.stage == last[-1].stage)
        return Study(
            self.path,
            self.path.stem,
            self.text(content["title"], ("title",)),
            self.text(content["question"], ("question",)),
            self.seeds(content.get("seeds", 3)),
            stages,
            tuple(metrics),
            default if main is None else self.metric(main, ("main_metric",), metrics),
            factors,
            combinations,
            skip,
            {name: base[name] for name in factors},
            tuple(
                self.finding(entry, ("findings", number), factors, metrics)
                for number, entry in enumerate(findings)
            ),
        )

    def seeds(self, value: Any) -> tuple[int, ...]:
        """Convert a number of seeds, or a list of seeds."""
        try:
            return parse_seeds(value)
        except ValueError as error:
            raise self.error(("seeds",), str(error)) from None

    def stages(self, value: Any) -> tuple[dict[str, Settings], list[Metric]]:
        """Convert the stages and their metrics."""
        stages: dict[str, Settings] = {}
        metrics: list[Metric] = []
        for name, entry in self.mapping(value, ("stages",), "stages by name").items():
            where = ("stages", name)
            if not isinstance(name, str) or not name.isidentifier():
                raise self.error(where, "the name of a stage has only letters, digits and underscores")
            entry = self.mapping(entry, where, "config, from, metrics and config keys")
            names = self.items(entry.get("metrics"), (*where, "metrics"), "names of metrics")
            metrics += [Metric(name, self.text(item, (*where, "metrics"))) for item in names]
            rest = {key: item for key, item in entry.items() if key != "metrics"}
            settings = self.settings(rest, where, list(stages))
            if settings.config is None:
                raise self.error(where, "config is missing: a file, or a name in the model zoo")
            stages[name] = settings
        if not stages:
            raise self.error(("stages",), "expected at least one stage")
        if not metrics:
            raise self.error(("stages",), "expected metrics of at least one stage, such as metrics: [top1]")
        return stages, metrics

    def settings(self, entry: dict[Any, Any], where: tuple[Any, ...], earlier: list[str]) -> Settings:
        """Convert what a stage or a level sets: config, from, and config keys.

        Args:
            earlier: the stages that it may start from.
        """
        keys = {}
        for key, value in entry.items():
            if not isinstance(key, str) or (key not in ("config", "from") and not key[:1].isupper()):
                known = ["config", "from", *(["metrics"] if where[0] == "stages" else [])]
                problem = f"unknown key; expected {', '.join(known)} or config keys such as SOLVER.EPOCHS"
                raise self.error((*where, key), problem)
            if key not in ("config", "from"):
                keys[key] = self.config_key(key, value, (*where, key))
        config, source = entry.get("config"), entry.get("from")
        if config is not None:
            config = self.text(config, (*where, "config"))
            self.config_file(config, (*where, "config"))
        if "from" in entry and source is not None and source not in earlier:
            known = ", ".join(earlier) or "there is none"
            problem = f"expected an earlier stage ({known}), got {format_value(source)}"
            raise self.error((*where, "from"), problem)
        source = None if "from" not in entry else source or ""
        return Settings(config, source, dict(flatten_keys(keys)))

    def config_file(self, name: str, where: tuple[Any, ...]) -> None:
        """Check that a base config exists."""
        try:
            find_base_config(self.path, name)
        except ConfigError as error:
            raise self.error(where, str(error).partition(": ")[2]) from None

    def config_key(self, key: str, value: Any, where: tuple[Any, ...]) -> Any:
        """Check a config key, or a group of keys; return its value."""
        cfg = get_cfg()
        try:
            cfg.merge_from_other_cfg({key: value})
            for name, _ in flatten_keys({key: value}):
                if name in _SET_BY_STUDY:
                    raise self.error(where, "set by the study itself; use seeds and --output")
                check_value(cfg, name)
        except ConfigError as error:
            text = str(error)
            raise self.error(where, text.removeprefix(f"{key}: ")) from None
        return value

    def factors(
        self, value: Any, stages: Mapping[str, Settings]
    ) -> dict[str, dict[str, dict[str, Settings | None]]]:
        """Convert the factors."""
        factors: dict[str, dict[str, dict[str, Settings | None]]] = {}
        for factor, entry in self.mapping(value, ("factors",), "factors by name").items():
            where = ("factors", factor)
            factor = self.name(factor, ("factors",))
            levels = self.mapping(entry, where, "levels by name")
            if not levels:
                raise self.error(where, "expected at least one level")
            factors[factor] = {}
            for level, changes in levels.items():
                name = self.name(level, where)
                if name in factors[factor]:
                    raise self.error((*where, level), "there are two levels of this name")
                factors[factor][name] = self.level(changes, (*where, level), stages)
        if not factors:
            raise self.error(("factors",), "expected at least one factor")
        return factors

    def level(
        self, value: Any, where: tuple[Any, ...], stages: Mapping[str, Settings]
    ) -> dict[str, Settings | None]:
        """Convert the changes of a level, by stage."""
        changes: dict[str, Settings | None] = {}
        names = list(stages)
        for stage, entry in self.mapping(value, where, "changes by stage").items():
            if stage not in stages:
                raise self.error((*where, stage), f"no such stage{did_you_mean(str(stage), names)}")
            if entry is None:
                changes[stage] = None
                continue
            entry = self.mapping(entry, (*where, stage), "config, from and config keys; null skips the stage")
            changes[stage] = self.settings(entry, (*where, stage), names[: names.index(stage)])
        return changes

    def combination(
        self,
        value: Any,
        where: tuple[Any, ...],
        factors: Mapping[str, Mapping],
        stages: Mapping[str, Settings],
    ) -> tuple[dict[str, str], dict[str, Settings | None]]:
        """Convert levels of several factors, and the changes by stage of the cells that have them."""
        content = self.mapping(value, where, "levels, and changes by stage")
        levels = self.levels(content.get("levels"), (*where, "levels"), factors)
        changes = {stage: entry for stage, entry in content.items() if stage != "levels"}
        return levels, self.level(changes, where, stages)

    def levels(self, value: Any, where: tuple[Any, ...], factors: Mapping[str, Mapping]) -> dict[str, str]:
        """Convert levels by factor, which select cells."""
        content = self.mapping(value, where, "levels by factor, such as {mask: tube}")
        if not content:
            raise self.error(where, "expected levels by factor, such as {mask: tube}")
        for factor, level in content.items():
            if factor not in factors:
                raise self.error(
                    (*where, factor), f"no such factor{did_you_mean(str(factor), list(factors))}"
                )
            if self.name(level, (*where, factor)) not in factors[factor]:
                hint = did_you_mean(str(level), list(factors[factor]))
                raise self.error((*where, factor), f"{level}: no such level{hint}")
        return {factor: str(level) for factor, level in content.items()}

    def metric(self, value: Any, where: tuple[Any, ...], metrics: list[Metric]) -> Metric:
        """Convert the name of a metric, STAGE/METRIC."""
        known = {str(metric): metric for metric in metrics}
        if not isinstance(value, str) or value not in known:
            hint = did_you_mean(str(value), known)
            raise self.error(where, f"{format_value(value)} is not among the metrics of the stages{hint}")
        return known[value]

    def finding(
        self, value: Any, where: tuple[Any, ...], factors: Mapping[str, Mapping], metrics: list[Metric]
    ) -> Finding:
        """Convert a finding."""
        content = self.mapping(value, where, "a finding: claim, source, better, worse, metric")
        self.known(content, where, required=("claim", "better", "worse", "metric"), optional=("source",))
        better = self.levels(content["better"], (*where, "better"), factors)
        worse = self.levels(content["worse"], (*where, "worse"), factors)
        if set(better) != set(worse):
            raise self.error((*where, "worse"), "expected levels of the same factors as in better")
        if better == worse:
            raise self.error((*where, "worse"), "the same levels as in better")
        source = content.get("source")
        return Finding(
            self.text(content["claim"], (*where, "claim")),
            "" if source is None else self.text(source, (*where, "source")),
            better,
            worse,
            self.metric(content["metric"], (*where, "metric"), metrics),
        )


def parse_seeds(value: Any) -> tuple[int, ...]:
    """Return the seeds that a number of seeds (3: 0, 1, 2) or a list of seeds means.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SEEDS:
        return tuple(range(value))
    seeds = value if isinstance(value, list) else []
    valid = all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED for seed in seeds
    )
    if seeds and valid and len(set(seeds)) == len(seeds) <= MAX_SEEDS:
        return tuple(seeds)
    raise ValueError(f"expected a number of seeds, or a list of different seeds, got {format_value(value)}")


def flatten_keys(keys: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Yield dotted config keys with their values. `keys` may mix dotted keys and nested groups."""
    return flatten(keys)


def find_base_config(study: Path, name: str) -> Path:
    """Return the base config of a stage: a path relative to the study file, or a name in the model zoo.

    Raises:
        ConfigError: there is no such config.
    """
    path = study.parent / Path(name).expanduser()
    return path if path.is_file() else model_zoo.get_config_file(name)


def matches(levels: Levels, selection: Levels) -> bool:
    """Return whether a cell with these levels is selected."""
    return all(levels[factor] == level for factor, level in selection.items())
