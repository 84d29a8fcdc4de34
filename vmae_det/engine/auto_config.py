"""Choose every setting of a training run from its data and the device: `vmae-det train --data FILE`.

`choose_config` returns a complete config and the list of its choices with their reasons. A key that the user
has set is never changed. docs/guides/train_your_data.md documents the rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vmae_det import model_zoo
from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.config.cfg_node import value_of
from vmae_det.config.checks import NUM_CLASSES_KEYS, check_value
from vmae_det.data.catalog import DatasetSpec, get_dataset
from vmae_det.data.classes import ModelClasses
from vmae_det.data.loader import ConcatClipDataset, build_train_dataset
from vmae_det.data.split import split_dataset, write_annotated_persons
from vmae_det.engine.auto_network import (
    DECODER_KEYS,
    NETWORK_KEYS,
    RECIPES,
    TASKS,
    choose_recipe,
    network_of,
    size_of,
)
from vmae_det.engine.inspection import Memory, count_tokens, estimate_memory
from vmae_det.engine.num_classes import resolve_num_classes
from vmae_det.engine.setup import get_device, has_bfloat16_units
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import model_class
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import ConfigError, UserError
from vmae_det.utils.memory import device_memory, in_gb
from vmae_det.video.probe import probe_video

DATA_FOLDER = "data"  # in OUTPUT_DIR: the dataset files of a split
_PROBED = 16  # videos whose header is read
_MIN_STEPS, _MIN_CLIPS = 20, 4  # of an epoch, and of a step; the clips have precedence
_MEMORY_SHARE = 0.7  # of the device; kernels, the loader and the system use the rest
_RARE = 10  # ratio of the most frequent class to the rarest one from which classes are weighted
_EVALUATIONS = 10  # of a run
_PATIENCE = 5
_FEW_CLIPS = 5000


class Schedule(NamedTuple):
    """Rule for batch size, learning rate and length of a run.

    Attributes:
        clips: largest number of clips of a step.
        rate: learning rate of a step of 16 clips. It grows with the square root of their number.
        head: factor of the head's learning rate.
        steps: target number of optimizer steps.
    """

    clips: int
    rate: float
    head: float
    steps: int


# By task, and by whether the backbone is the tiny one. The rates of the others are those of the paper's
# recipes, scaled by the square root of the batch size. Those of the tiny one are measured on MiniAVA.
_SCHEDULES = {
    ("pretraining", False): Schedule(256, 7.5e-5, 1.0, 10_000),
    ("classification", False): Schedule(64, 1e-4, 10.0, 3_000),
    ("detection", False): Schedule(64, 1e-4, 10.0, 3_000),
    ("pretraining", True): Schedule(16, 5e-4, 1.0, 1_500),
    ("classification", True): Schedule(16, 5e-4, 40.0, 800),
    ("detection", True): Schedule(16, 2e-3, 20.0, 600),
}
_CPU_CLIPS, _CPU_STEPS = 16, 500  # of a backbone that is not tiny


@dataclass(frozen=True)
class Choice:
    """A config key with its value and the reason. `given`: the user has set it."""

    key: str
    value: Any
    reason: str
    given: bool = False


@dataclass
class AutoConfig:
    """Result of `choose_config`: the frozen config, its choices, and warnings for the user."""

    cfg: CfgNode
    choices: list[Choice] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VideoFacts:
    """Medians over some videos of a dataset: frames per second, seconds, frames, short side in pixels."""

    rate: float
    seconds: float
    frames: int
    short_side: int


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
    task = _task_of(spec, given, given_keys)
    val_spec = _checked_val(val, spec, given)
    chooser = _Chooser(spec, task, given_keys)
    chooser.choose_network(model, weights, given, base)
    chooser.choose_data(data, val_spec, val, folder)
    dataset = chooser.choose_classes()
    chooser.move_datasets(folder)
    chooser.choose_input(dataset)
    chooser.choose_schedule(dataset, processes)
    chooser.choose_evaluation()
    listed = {choice.key for choice in chooser.choices}
    for key in sorted(given_keys - listed):
        chooser.set(key, None, "")
    check_config(chooser.cfg)
    chooser.cfg.freeze()
    return AutoConfig(chooser.cfg, chooser.choices, chooser.warnings)


def _task_of(spec: DatasetSpec, given: CfgNode, given_keys: frozenset[str]) -> str:
    if spec.type not in TASKS:
        raise ConfigError(
            f"--data: {spec.name} is of type '{spec.type}', expected one of {', '.join(TASKS)}; use "
            "--config-file without --data for a custom type"
        )
    task = TASKS[spec.type]
    if "MODEL.META_ARCHITECTURE" in given_keys and model_class(given).task != task:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {given.MODEL.META_ARCHITECTURE}, but {spec.name} of --data is of type "
            f"'{spec.type}', which trains {RECIPES[task][0]}"
        )
    return task


def _checked_val(val: str, spec: DatasetSpec, given: CfgNode) -> DatasetSpec | None:
    """Return the validation set, whose type and classes must fit those of the training set."""
    if not val:
        return None
    found = get_dataset(val, given.DATASETS.ROOT, "--val")
    if found.type != spec.type:
        raise ConfigError(
            f"--val: {found.name} is of type '{found.type}', but {spec.name} of --data is of type "
            f"'{spec.type}'"
        )
    if spec.label_map is not None and found.label_map is not None:
        classes = ModelClasses(LabelMap.from_file(spec.label_map), str(spec.label_map))
        classes.columns_of(LabelMap.from_file(found.label_map), str(found.label_map))
    return found


class _Chooser:
    """Makes the choices, one topic per method. Later topics use the choices of earlier ones."""

    def __init__(self, spec: DatasetSpec, task: str, given_keys: frozenset[str]) -> None:
        self.spec = spec
        self.task = task
        self.given_keys = given_keys
        self.cfg = get_cfg()
        self.choices: list[Choice] = []
        self.warnings: list[str] = []
        self.is_tiny = False
        self.recipe_crop = 0
        self.side_ratios: dict[str, float] = {}

    def set(self, key: str, value: Any, reason: str) -> None:
        """Set a key, unless the user has set it."""
        if key in self.given_keys:
            self.choices.append(Choice(key, value_of(self.cfg, key), "given", given=True))
        else:
            self.cfg.merge_from_list([key, value])
            self.choices.append(Choice(key, value_of(self.cfg, key), reason))

    # ------------------------------------------------------------ network

    def choose_network(
        self, model: str, weights: str, given: CfgNode, base: Callable[[CfgNode], None]
    ) -> None:
        """Choose recipe, network and initial weights."""
        given_weights = given.MODEL.WEIGHTS or given.MODEL.BACKBONE.CHECKPOINT
        if weights and given_weights:
            raise UserError(f"--weights: {weights}, but the config names {given_weights}; give one of them")
        weights = weights or given_weights
        architecture, _, tiny = RECIPES[self.task]
        stored = network_of(weights) if weights else {}
        if not (model or weights) and "MODEL.BACKBONE.EMBED_DIM" in self.given_keys:
            size = size_of(given.MODEL.BACKBONE.EMBED_DIM)
            recipe, why = (RECIPES[self.task][1].format(size) if size else tiny), "fits the given backbone"
        else:
            recipe, weights, why = choose_recipe(self.task, model, weights, stored, self.warnings)
        self.cfg.merge_from_file(model_zoo.get_config_file(recipe))
        for key in ("MODEL.WEIGHTS", "MODEL.BACKBONE.CHECKPOINT"):
            self.cfg.merge_from_list([key, ""])
        sides = ("INPUT.TRAIN_SHORT_SIDE", "INPUT.TEST_SHORT_SIDE")
        self.side_ratios = {key: value_of(self.cfg, key) / self.cfg.INPUT.CROP_SIZE for key in sides}
        if weights and not stored:
            stored = network_of(weights)
        is_autoencoder = stored.get("MODEL.META_ARCHITECTURE") == "MaskedAutoencoder"
        resumes_decoder = self.task == "pretraining" and is_autoencoder
        for key in (*NETWORK_KEYS, *(DECODER_KEYS if resumes_decoder else ())):
            if key in stored:
                self.cfg.merge_from_list([key, stored[key]])
        base(self.cfg)
        self.is_tiny = recipe == tiny
        self.recipe_crop = self.cfg.INPUT.CROP_SIZE
        self.set("MODEL.META_ARCHITECTURE", architecture, f"{self.spec.name} is of type {self.spec.type}")
        node = self.cfg.MODEL.BACKBONE
        network = f"{node.DEPTH} blocks of dimension {node.EMBED_DIM}"
        self.choices.insert(0, Choice("(recipe)", recipe, f"{why}: {network}"))
        key = "MODEL.WEIGHTS" if resumes_decoder or given.MODEL.WEIGHTS else "MODEL.BACKBONE.CHECKPOINT"
        self.set(key, weights, "initial weights" if weights else "none: random initial weights")

    # ------------------------------------------------------------ data

    def choose_data(self, data: str, val_spec: DatasetSpec | None, val: str, folder: Path) -> None:
        """Choose training and validation set, and the folder of the run."""
        self.set("OUTPUT_DIR", default_output(data), "named after the data")
        train, test, reason = data, (val,) if val else (), "--val"
        if val_spec is not None and val_spec.type == "detection" and val_spec.person_boxes is None:
            test, reason = (str(write_annotated_persons(val_spec, folder)),), "--val, with annotated persons"
            self._warn_about_persons(val)
        if val_spec is None and self.task == "pretraining":
            reason = "none: all videos are for training"
        elif val_spec is None:
            train, test, reason = self._split(data, folder)
        self.set("DATASETS.TRAIN", (train,), "--data" if train == data else reason)
        self.set("DATASETS.TEST", test, reason)

    def _split(self, data: str, folder: Path) -> tuple[str, tuple[str, ...], str]:
        """Return training and validation set, and the reason."""
        split = split_dataset(self.spec, folder, self.cfg.SEED)
        if split is None:
            self.warnings.append(f"{data}: training has no validation set, because only one video has labels")
            return data, (), "none: a single video with labels cannot be split"
        if split.missing:
            self.warnings.append(
                f"{data}: {split.missing} classes have labels in only one of the training and validation sets"
            )
        if split.annotated_persons:
            self._warn_about_persons(data)
        reason = f"{split.videos[0]} videos for training, {split.videos[1]} for validation"
        return str(split.train), (str(split.val),), reason

    def _warn_about_persons(self, name: str) -> None:
        self.warnings.append(
            f"{name}: has no person_boxes; validation uses the annotated boxes, so that frame-mAP measures "
            "actions and not the detection of people (vmae-det detect-persons writes person_boxes)"
        )

    def choose_classes(self) -> ConcatClipDataset:
        """Choose the number of classes and their balance; return the training set."""
        key = NUM_CLASSES_KEYS.get(self.task)
        if key is not None:
            if key not in self.given_keys:
                self.cfg.merge_from_list([key, "auto"])
            source = resolve_num_classes(self.cfg)
            self.set(key, value_of(self.cfg, key), f"classes of {source}")
        dataset = build_train_dataset(self.cfg, self.task)
        if key is None:
            return dataset
        counts = dataset.class_counts(value_of(self.cfg, key))
        present = counts[counts > 0]
        if len(present) < 2:
            self.warnings.append(f"{self.spec.name}: only one class has labels, so label other actions, too")
        ratio = present.max() / present.min()
        balance = "inverse_sqrt" if ratio > _RARE else "none"
        reason = f"the most frequent class has {ratio:.3g} times the labels of the rarest ({present.min()})"
        self.set("SOLVER.CLASS_BALANCE", balance, reason)
        label_map = dataset.classes and dataset.classes.label_map
        names = label_map.names if label_map else ()
        sided = [name for name in names if re.search(r"(?<![a-z])(left|right)(?![a-z])", name, re.I)]
        if sided:
            self.set("INPUT.FLIP", 0.0, f"a flip would turn '{sided[0]}' into another class")
        return dataset

    def move_datasets(self, folder: Path) -> None:
        """Replace the dataset files in `folder` by those that OUTPUT_DIR will contain."""
        moved = Path(self.cfg.OUTPUT_DIR) / DATA_FOLDER
        for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
            names = [Path(name) for name in value_of(self.cfg, key)]
            if any(name.parent == folder for name in names):
                names = tuple(str(moved / name.name) for name in names)
                self.cfg.merge_from_list([key, names])
                self.choices = [
                    replace(choice, value=names) if choice.key == key else choice for choice in self.choices
                ]

    # ------------------------------------------------------------ input

    def choose_input(self, dataset: ConcatClipDataset) -> None:
        """Choose size and stride of clips by the videos."""
        facts = probe_dataset(dataset)
        node, patch = self.cfg.INPUT, self.cfg.MODEL.BACKBONE.PATCH_SIZE
        if facts is None:
            return
        fps = 12 if self.is_tiny else 30  # of the videos that the recipes are for
        span = node.NUM_FRAMES * node.SAMPLING_RATE / fps
        stride = max(round(span * facts.rate / node.NUM_FRAMES), 1)
        if self.task == "classification":
            stride = max(min(stride, facts.frames // node.NUM_FRAMES), 1)
        covered = node.NUM_FRAMES * stride / facts.rate
        reason = f"{node.NUM_FRAMES} frames in {covered:.3g} s at {facts.rate:.4g} fps"
        self.set("INPUT.SAMPLING_RATE", stride, reason)
        crop = max(min(self.recipe_crop, facts.short_side // patch * patch), 2 * patch)
        self.set("INPUT.CROP_SIZE", crop, f"the short side of the videos is {facts.short_side} pixels")
        for key, ratio in self.side_ratios.items():
            side = round(ratio * node.CROP_SIZE)
            if value_of(self.cfg, key) != side:
                self.set(key, side, f"{ratio:.3g} x CROP_SIZE, as in the recipe")
        covered = node.NUM_FRAMES * node.SAMPLING_RATE / facts.rate
        reason = f"videos of {facts.seconds:.3g} s, clips of {covered:.3g} s"
        if self.task == "pretraining":
            self.set("DATALOADER.CLIPS_PER_VIDEO", max(min(round(facts.seconds / covered), 100), 1), reason)
        if self.task == "classification":
            self.set("TEST.NUM_CLIPS", max(min(math.ceil(facts.seconds / covered - 0.25), 5), 1), reason)
            if len(dataset) < _FEW_CLIPS and not self.is_tiny:
                off = {"INPUT.MIXUP": 0.0, "INPUT.CUTMIX": 0.0, "DATALOADER.REPEATED_AUG": 1}
                for key, value in off.items():
                    self.set(key, value, f"fewer than {_FEW_CLIPS} clips, so a short run")

    # ------------------------------------------------------------ solver

    def choose_schedule(self, dataset: ConcatClipDataset, processes: int) -> None:
        """Choose precision, batch size, learning rate and length."""
        cfg, solver = self.cfg, self.cfg.SOLVER
        device = get_device(cfg)
        on_cpu = device.type != "cuda"
        amp, why = _precision(device)
        self.set("SOLVER.AMP", amp, why)
        rule = _SCHEDULES[self.task, self.is_tiny]
        if on_cpu and not self.is_tiny:
            rule = rule._replace(clips=_CPU_CLIPS, steps=_CPU_STEPS)
        copies = cfg.DATALOADER.REPEATED_AUG
        samples = len(dataset)
        if self.task == "pretraining":  # CLIPS_PER_VIDEO was chosen after the dataset was built
            samples = dataset.num_files * cfg.DATALOADER.CLIPS_PER_VIDEO
        wanted = max(min(rule.clips, samples * copies / _MIN_STEPS), _MIN_CLIPS) / copies
        per_process = _power_of_two(wanted / processes)
        batch = min(per_process * processes, samples)
        sizes = f"{_MIN_CLIPS} to {rule.clips} clips"
        reason = f"{samples} samples in an epoch: {_MIN_STEPS} steps or more, of {sizes}"
        self.set("SOLVER.BATCH_SIZE", batch, reason)
        self._choose_accumulation(device, copies, processes)
        batch = solver.BATCH_SIZE
        rate = rule.rate * math.sqrt(batch * copies / 16)
        reason = f"{rate:.3g} for a step: {rule.rate:g} x sqrt({batch * copies} clips / 16)"
        self.set("SOLVER.BASE_LR", float(f"{rate * 256 / batch:.3g}"), reason)
        for key in ("MIN_LR", "WARMUP_LR"):
            if solver[key] > solver.BASE_LR:
                self.set(f"SOLVER.{key}", 0.0, "not above BASE_LR")
        if self.task != "pretraining":
            self.set("SOLVER.HEAD_LR_FACTOR", rule.head, "the head starts from random weights")
        steps = max(samples // batch, 1)
        epochs = int(np.clip(math.ceil(rule.steps / steps), 10, 200))
        reason = f"about {rule.steps} steps, {steps} in an epoch; 10 to 200 epochs"
        self.set("SOLVER.EPOCHS", epochs, reason)
        warmup = min(round(solver.EPOCHS / 10, 1), 5.0)
        self.set("SOLVER.WARMUP_EPOCHS", warmup, "a tenth of the epochs, at most 5")
        cores = count_cores()
        workers = int(cores > processes) if on_cpu else min(max(cores // processes - 1, 1), 8)
        reason = f"{cores} CPU cores, {processes} process{'es' * (processes > 1)} on {device.type}"
        self.set("DATALOADER.NUM_WORKERS", workers, reason)
        if self.task == "detection":
            self.set("DATALOADER.CACHE_MB", 256, "keeps decoded clips in each loader worker")

    def _choose_accumulation(self, device: torch.device, copies: int, processes: int) -> None:
        """Divide the batch into passes that fit into the memory of the device."""
        share = device_memory(device) / (1 if device.type == "cuda" else processes)
        memory, fits = self._clips_that_fit(share)
        if fits < copies:
            reason = f"{copies} clips need {in_gb(memory.total(copies))} otherwise"
            self.set("MODEL.ACTIVATION_CHECKPOINTING", True, reason)
            memory, fits = self._clips_that_fit(share)
        local, parts = self.cfg.SOLVER.BATCH_SIZE // processes, 1
        while local * copies / parts > max(fits, copies) and local % (2 * parts) == 0:
            parts *= 2
        clips = local * copies // parts
        reason = f"{clips} clips need {in_gb(memory.total(clips))} of {in_gb(share)}"
        self.set("SOLVER.ACCUMULATE", parts, reason)

    def _clips_that_fit(self, size: float) -> tuple[Memory, int]:
        memory = estimate_memory(self.cfg, count_tokens(self.cfg))
        return memory, int((_MEMORY_SHARE * size - memory.total(0)) / max(memory.clip, 1))

    # ------------------------------------------------------------ evaluation

    def choose_evaluation(self) -> None:
        """Choose when to evaluate, to save and to stop."""
        epochs = self.cfg.SOLVER.EPOCHS
        period = max(epochs // _EVALUATIONS, 1)
        if self.cfg.DATASETS.TEST:
            self.set("TEST.PERIOD", period, f"epochs between evaluations, about {_EVALUATIONS} in the run")
            if self.task != "pretraining" and self.cfg.TEST.PERIOD:
                self.set("TEST.PATIENCE", _PATIENCE, "evaluations without improvement before the run stops")
        self.set("SOLVER.CHECKPOINT_PERIOD", self.cfg.TEST.PERIOD or period, "as often as evaluations")


# ---------------------------------------------------------------- facts


def probe_dataset(dataset: ConcatClipDataset) -> VideoFacts | None:
    """Return the medians over up to 16 videos of a dataset; None if none of them can be read."""
    files = [path for part in dataset.datasets for path in _some(part.files)]
    infos = [probe_video(str(path), decode="none") for path in files]
    infos = [info for info in infos if not info.problem and info.frames and info.rate]
    if not infos:
        return None

    def median(values: list[float]) -> float:
        return float(np.median(values))

    return VideoFacts(
        rate=median([info.rate for info in infos]),
        seconds=median([info.seconds for info in infos]),
        frames=int(median([info.frames for info in infos])),
        short_side=int(median([min(info.width, info.height) for info in infos])),
    )


def _some(files: Any) -> list[Path]:
    positions = np.unique(np.linspace(0, len(files) - 1, min(len(files), _PROBED)).astype(int))
    return [files[int(position)] for position in positions]


def _power_of_two(number: float) -> int:
    return 2 ** int(math.log2(max(number, 1)))


def _precision(device: torch.device) -> tuple[str, str]:
    if device.type != "cuda":
        return "none", f"{device.type} without mixed precision"
    if has_bfloat16_units(device):
        return "bf16", "the GPU supports bfloat16"
    return "fp16", "the GPU has no bfloat16 units"


def default_output(data: str) -> str:
    """Return OUTPUT_DIR: named after the dataset, its file, or the folder of a file `dataset.yaml`."""
    path = Path(data)
    parts = [part for part in path.with_suffix("").parts if part not in ("/", ".", "..", "dataset", "train")]
    return "output/" + (re.sub(r"[^\w.-]", "_", parts[-1]) if parts else "train")
