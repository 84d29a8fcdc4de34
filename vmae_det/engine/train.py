"""Training: from a config to a trained model with checkpoints, logs and metrics.

`TrainingRun` builds the parts of a run. `Trainer` in `trainer.py` runs the loop, with the hooks in
`hooks.py`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from vmae_det.checkpoint import Checkpointer, load_weights, save_weights
from vmae_det.checkpoint.sharded import optimizer_state_by_name
from vmae_det.checkpoint.state_dicts import AVERAGED_WEIGHTS
from vmae_det.config import CfgNode
from vmae_det.config.cfg_node import value_of
from vmae_det.config.checks import NUM_CLASSES_KEYS
from vmae_det.data.catalog import get_dataset
from vmae_det.data.class_balance import class_weights
from vmae_det.data.classes import ModelClasses
from vmae_det.data.loader import (
    ConcatClipDataset,
    build_train_dataset,
    build_train_loader,
    describe_mix,
    steps_per_epoch,
)
from vmae_det.engine.bad_loss import BadLossHandler
from vmae_det.engine.best_checkpoint import BestCheckpoint, choose_metric
from vmae_det.engine.ema import ModelEMA
from vmae_det.engine.evaluation import TestSets
from vmae_det.engine.hooks import (
    BadSampleCounter,
    EarlyStop,
    EvalHook,
    LRScheduler,
    ModelSchedule,
    PeriodicCheckpointer,
    PeriodicWriter,
    StepTimer,
    StopOnSignal,
)
from vmae_det.engine.parallel import is_sharded, parallelize
from vmae_det.engine.resume import report_differences, restore
from vmae_det.engine.setup import (
    FINAL_WEIGHTS,
    METRICS,
    check_training_memory,
    setup_run,
    write_on_main_process,
)
from vmae_det.engine.trainer import HookBase, Trainer
from vmae_det.engine.weights import build_model_and_classes, unsharded_copy
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_optimizer, build_schedule
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.events import JSONWriter, TerminalWriter, Writer
from vmae_det.utils.tensorboard import TensorBoardWriter
from vmae_det.utils.versions import code_versions
from vmae_det.utils.weights_and_biases import WandbWriter

logger = logging.getLogger(__name__)


def run_training(cfg: CfgNode, resume: bool = False, hooks: Sequence[HookBase] = ()) -> dict[str, float]:
    """Train as the config describes, evaluate on DATASETS.TEST, and return the metrics.

    Files in OUTPUT_DIR: config.yaml, log.txt, metrics.jsonl, TensorBoard files, checkpoints, and
    model_final.pt with the weights that are evaluated (the EMA weights with SOLVER.EMA_DECAY). With
    DATASETS.TEST also results.json, and with TEST.PERIOD model_best.pt.

    Args:
        resume: continue from the newest checkpoint in OUTPUT_DIR; start a new run if there is none.
        hooks: additional hooks, called after those of `TrainingRun.build_hooks`.
    """
    run = TrainingRun(cfg, setup_run(cfg), resume)
    run.trainer.register_hooks([*run.build_hooks(), *hooks])
    run.train()
    return run.save_and_evaluate()


class TrainingRun:
    """The parts of a training run, built from a config and restored from a checkpoint.

    Attributes:
        model: the model without a wrapper. `trainer.model` wraps it for several processes.
        start_step: steps done before this start; 0 in a new run.
    """

    def __init__(self, cfg: CfgNode, device: torch.device, resume: bool = False) -> None:
        self.cfg = cfg
        self.device = device
        self.folder = Path(cfg.OUTPUT_DIR)
        self.versions = code_versions()
        self.checkpointer = build_checkpointer(cfg, resume)
        check_datasets_exist(cfg)
        check_training_memory(cfg, device)

        # Model, and the checkpoint to resume from
        self.model, classes = build_model_and_classes(cfg)
        checkpoint = self.checkpointer.load_newest() if resume else None
        path, state = checkpoint or (None, {})
        self.start_step = state.get("step", 0)
        if checkpoint:
            classes = ModelClasses.from_checkpoint(state.get("label_map"), str(path)) or classes

        # Data
        dataset = build_train_dataset(cfg, model_class(cfg).task, classes)
        self.steps_per_epoch = steps_per_epoch(cfg, dataset)
        self.total_steps = self.steps_per_epoch * cfg.SOLVER.EPOCHS
        for line in describe_mix(cfg, dataset):
            logger.info("DATASETS.TRAIN: %s", line)
        if cfg.MODEL.PERSON_HEAD.NAME and self.model.task == "detection":
            check_complete_persons(dataset)
        self.label_map = dataset.classes and dataset.classes.to_checkpoint()
        self.test_sets = TestSets(cfg, device, dataset.classes)
        best_metric = choose_metric(cfg.TEST.BEST_METRIC, self.test_sets.metrics)

        # Weights on the device, optimizer, EMA
        if cfg.SOLVER.CLASS_BALANCE != "none":
            set_class_weights(cfg, self.model, dataset)
        if checkpoint and path.is_file():
            load_weights(self.model, state["model"], where=str(path))
        wrapped_model = parallelize(cfg, self.model.to(device), device)
        self.optimizer = build_optimizer(cfg, self.model)
        self.ema = ModelEMA(self.model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None

        # The loop
        self.loader = build_train_loader(cfg, dataset, self.start_step)
        self.batches = iter(self.loader)
        skip_bad = cfg.SOLVER.ON_BAD_LOSS == "skip"
        self.trainer = Trainer(
            wrapped_model,
            self.optimizer,
            self.batches,
            device,
            accumulate=cfg.SOLVER.ACCUMULATE,
            clip_grad=cfg.SOLVER.CLIP_GRAD,
            amp=cfg.SOLVER.AMP,
            seed=cfg.SEED,
            measure_gradients=1 if skip_bad else cfg.SOLVER.LOG_PERIOD,
        )
        self.bad_loss = BadLossHandler(skip_bad, cfg.SOLVER.MAX_LOSS, cfg.SOLVER.MAX_SKIPPED, self.folder)
        if checkpoint:
            self.load_state_dict(path, state)
        elif resume:
            logger.info("no complete checkpoint in %s: starting a new run", self.folder)
        self.best = BestCheckpoint(
            self.folder, best_metric if cfg.TEST.PERIOD else None, resumed=checkpoint is not None
        )
        logger.info(
            "%s, %.2f M parameters, %d clips an epoch, %d steps of %d videos",
            cfg.MODEL.META_ARCHITECTURE,
            sum(p.numel() for p in self.model.parameters()) / 1e6,
            len(dataset),
            self.total_steps,
            cfg.SOLVER.BATCH_SIZE,
        )

    def build_hooks(self) -> list[HookBase]:
        """Return the hooks of the run, in the order in which they are called."""
        cfg = self.cfg
        checkpointing = PeriodicCheckpointer(
            self.checkpointer,
            self.state_dict,
            cfg.SOLVER.CHECKPOINT_PERIOD * self.steps_per_epoch,
            self.bad_loss.check,
        )
        eval_period = cfg.TEST.PERIOD * self.steps_per_epoch if cfg.DATASETS.TEST else 0
        writers = build_writers(cfg, self.start_step, self.total_steps)
        return [
            LRScheduler(build_schedule(cfg)),
            *([ModelSchedule(self.model)] if hasattr(self.model, "before_step") else []),
            self.bad_loss,
            *([self.ema] if self.ema else []),
            StepTimer(),
            EvalHook(self.evaluate, eval_period),
            *([self.early_stop(eval_period)] if cfg.TEST.PATIENCE and eval_period else []),
            BadSampleCounter(self.loader.bad_samples),
            PeriodicWriter(writers, cfg.SOLVER.LOG_PERIOD),
            checkpointing,
            StopOnSignal(checkpointing),
        ]

    def early_stop(self, eval_period: int) -> EarlyStop:
        """Return the hook that ends the run when evaluations stop improving."""
        return EarlyStop(lambda: self.best.step, self.cfg.TEST.PATIENCE, eval_period)

    def train(self) -> None:
        """Run the remaining steps."""
        with closing(self.batches):  # stops the loader workers, also after an error
            self.trainer.train(self.start_step, self.total_steps)

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate on DATASETS.TEST after a step and update model_best.pt. All processes must call this."""
        return self._evaluate(self.unsharded_model(), step)

    def save_and_evaluate(self) -> dict[str, float]:
        """Write model_final.pt, evaluate it, and return the metrics. All processes must call this.

        With TEST.PATIENCE, model_final.pt then gets the weights of the best evaluation.
        """
        model, step = self.unsharded_model(), self.trainer.step
        write_on_main_process(lambda: self.save_weights(model, self.folder / FINAL_WEIGHTS))
        logger.info("weights in %s", self.folder / FINAL_WEIGHTS)
        best = distributed.all_gather_object(self.best.step)[0]
        stopped_early = self.cfg.TEST.PATIENCE and best and step < self.total_steps  # and was evaluated
        if not stopped_early:
            metrics = self._evaluate(model, step)
            best = distributed.all_gather_object(self.best.step)[0]
            if not self.cfg.TEST.PATIENCE or best in (0, step):
                return metrics
        model = build_model(self.cfg)
        load_weights(model, self.best.path)
        model.to(self.device)
        write_on_main_process(lambda: self.save_weights(model, self.folder / FINAL_WEIGHTS))
        logger.info("%s now contains the best weights, those of step %d", self.folder / FINAL_WEIGHTS, best)
        return self.test_sets.evaluate(model)  # so that results.json and detections.csv are those of the file

    def _evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        metrics = self.test_sets.evaluate(model)
        self.best.update(metrics, step, functools.partial(self.save_weights, model))
        return metrics

    def unsharded_model(self) -> nn.Module:
        """Return the unsharded model to evaluate and save (EMA weights if enabled).

        All processes must call this.
        """
        if self.ema is None and not is_sharded(self.cfg):
            return self.model
        return unsharded_copy(self.cfg, (self.ema or self.model).state_dict(), self.device)

    def save_weights(self, model: nn.Module, path: Path, **extras: Any) -> None:
        """Write the weights of a model with the config, the label map, and `extras`."""
        save_weights(model.state_dict(), self.cfg.dump(), path, self.label_map, **extras)

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        ema = {AVERAGED_WEIGHTS: self.ema.state_dict()} if self.ema else {}
        return ema | {
            "model": self.model.state_dict(),
            "optimizer": (
                optimizer_state_by_name(self.optimizer)
                if is_sharded(self.cfg)
                else self.optimizer.state_dict()
            ),
            "averages": self.ema is not None,
            "scaler": self.trainer.scaler.state_dict(),
            "loss_guard": self.bad_loss.state_dict(),
            "step": self.trainer.step,
            "epoch": self.trainer.step / self.steps_per_epoch,
            "seed": self.cfg.SEED,
            "num_processes": distributed.get_world_size(),
            "config": self.cfg.dump(),
            "label_map": self.label_map,
            "versions": self.versions,
        }

    def load_state_dict(self, path: Path, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint and log how it differs from this run.

        Args:
            path: of the checkpoint. The weights of a checkpoint in one file are in the model already.
        """
        restore(path, state, self.model, self.optimizer, self.ema)
        self.trainer.scaler.load_state_dict(state["scaler"])
        self.bad_loss.load_state_dict(state.get("loss_guard", self.bad_loss.state_dict()))
        logger.info("resumed from %s, after step %d of %d", path, self.start_step, self.total_steps)
        report_differences(state, self.cfg, self.versions)


def check_complete_persons(dataset: ConcatClipDataset) -> None:
    """Log which training sets do not train a person head.

    Raises:
        ConfigError: none does.
    """
    incomplete = [part.spec.name for part in dataset.datasets if not part.spec.complete_persons]
    if len(incomplete) == len(dataset.datasets):
        raise ConfigError(
            f"MODEL.PERSON_HEAD: its training needs keyframes in which all people are annotated, but "
            f"{', '.join(incomplete)} has `complete_persons: false`; change that in its dataset file if the "
            "person head may learn to find only the annotated people (docs/guides/one_stage.md)"
        )
    for name in incomplete:
        logger.info("%s: does not train the person head, because complete_persons is false", name)


def set_class_weights(cfg: CfgNode, model: nn.Module, dataset: ConcatClipDataset) -> None:
    """Weight the classes in the loss of a model by SOLVER.CLASS_BALANCE.

    Raises:
        ConfigError: a custom model has no method `set_class_weights`, or a custom dataset counts no labels.
    """
    key = NUM_CLASSES_KEYS.get(model.task)
    if key is None:
        return  # `unused_keys` has warned
    counts = dataset.class_counts(value_of(cfg, key))
    if counts is None or not hasattr(model, "set_class_weights"):
        what = "the dataset has no class_counts" if counts is None else "the model has no set_class_weights"
        raise ConfigError(f"SOLVER.CLASS_BALANCE: {cfg.SOLVER.CLASS_BALANCE}, but {what}; set it to none")
    weights = class_weights(counts, cfg.SOLVER.CLASS_BALANCE, by_sample=model.task == "classification")
    model.set_class_weights(torch.from_numpy(weights))
    logger.info(
        "SOLVER.CLASS_BALANCE: weights of the classes from %.3g to %.3g", weights.min(), weights.max()
    )


def build_checkpointer(cfg: CfgNode, resume: bool) -> Checkpointer:
    """Build the checkpointer of OUTPUT_DIR.

    Raises:
        ConfigError: OUTPUT_DIR contains checkpoints, and the run is not resumed.
    """
    checkpointer = Checkpointer(cfg.OUTPUT_DIR, cfg.SOLVER.KEEP_CHECKPOINTS, is_sharded(cfg))
    if checkpointer.all() and not resume:
        raise ConfigError(
            f"OUTPUT_DIR: {Path(cfg.OUTPUT_DIR)} contains checkpoints of a run; continue it with --resume, "
            "or choose another folder"
        )
    return checkpointer


def check_datasets_exist(cfg: CfgNode) -> None:
    """Resolve the names of all datasets, so that a missing one is reported before the model is built."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        get_dataset(name, cfg.DATASETS.ROOT)
    if cfg.TEST.KNN_BANK:
        get_dataset(cfg.TEST.KNN_BANK, cfg.DATASETS.ROOT, "TEST.KNN_BANK")


def build_writers(cfg: CfgNode, start: int, total: int) -> list[Writer]:
    """Build the writers of metrics on the main process, and none on the others.

    Args:
        start, total: steps of the run that are done, and of the entire run.
    """
    folder = Path(cfg.OUTPUT_DIR)
    writers: list[Writer] = []

    def build() -> None:
        writers.append(JSONWriter(folder / METRICS, start))
        writers.append(TensorBoardWriter(folder / "tensorboard", start))
        if cfg.WANDB.PROJECT:
            config = yaml.safe_load(cfg.dump())
            writers.append(WandbWriter(folder, cfg.WANDB.PROJECT, config, resumed=start > 0))
        writers.append(TerminalWriter(start, total, model_class(cfg).task))

    write_on_main_process(build)
    return writers
