"""From a config to a run: device, model, loaders, hooks; then training or evaluation."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import vmae_det
from vmae_det.checkpoint import Checkpointer, LoadReport, load_weights, read_checkpoint, save_weights
from vmae_det.checkpoint.comparison import compare_configs
from vmae_det.checkpoint.formats import PUBLISHED_DETECTOR
from vmae_det.checkpoint.optimizer_state import tensors_by_name
from vmae_det.checkpoint.state_dicts import AVERAGED_WEIGHTS
from vmae_det.config import CfgNode, check_config
from vmae_det.config.checks import unused_keys
from vmae_det.config.size_bounds import clips_per_pass, min_training_bytes
from vmae_det.data.catalog import get_dataset
from vmae_det.data.classes import ModelClasses
from vmae_det.data.loader import (
    build_dataset,
    build_test_loader,
    build_train_dataset,
    build_train_loader,
    steps_per_epoch,
)
from vmae_det.engine.bad_loss import BadLossHandler
from vmae_det.engine.best_checkpoint import BestCheckpoint, Metric, choose_metric
from vmae_det.engine.ema import ModelEMA
from vmae_det.engine.evaluation import run_inference
from vmae_det.engine.hooks import (
    BadVideos,
    Checkpointing,
    Evaluation,
    LearningRate,
    StopOnSignal,
    Timing,
    Writing,
)
from vmae_det.engine.parallel import is_sharded, spread
from vmae_det.engine.resume import report_differences, restore
from vmae_det.engine.trainer import HookBase, Trainer
from vmae_det.evaluation.evaluators import EVALUATOR_REGISTRY
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_optimizer, build_schedule
from vmae_det.utils import cpu, distributed
from vmae_det.utils.errors import ConfigError, UserError, WeightsError
from vmae_det.utils.events import JSONWriter, TerminalWriter, Writer
from vmae_det.utils.logging import setup_logging
from vmae_det.utils.memory import device_memory, in_gb
from vmae_det.utils.output_files import make_output_folder, write_json, write_text
from vmae_det.utils.registry import lookup
from vmae_det.utils.sharded_tensors import full_state_dict
from vmae_det.utils.tensorboard import TensorBoardWriter
from vmae_det.utils.versions import code_versions
from vmae_det.utils.watchdog import write_stacks_to
from vmae_det.utils.weights_and_biases import WandbWriter

logger = logging.getLogger(__name__)

FINAL_WEIGHTS = "model_final.pt"
METRICS = "metrics.jsonl"


def find_device(cfg: CfgNode) -> torch.device:
    """The device that MODEL.DEVICE asks for; with several processes, this one's GPU."""
    name = cfg.MODEL.DEVICE
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("MODEL.DEVICE: cuda, but torch finds no GPU here; set it to cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def choose_device(cfg: CfgNode) -> torch.device:
    """The same, with what suits a CPU set for this process: threads, products, memory."""
    device = find_device(cfg)
    if device.type == "cpu":
        # A core for each loader process: threads that wait for one another's core cost more than they give.
        cores = (os.cpu_count() or 1) // distributed.get_world_size()
        torch.set_num_threads(max(cores - cfg.DATALOADER.NUM_WORKERS, 1))
        cpu.use_fast_gemm()
        cpu.keep_freed_memory()
    return device


def start_run(cfg: CfgNode, training: bool = True) -> torch.device:
    """Check the config, start the log, save the config beside the results; gives the device.

    Raises:
        ConfigError: the config is wrong, OUTPUT_DIR cannot be written to, or holds a training run that an
            evaluation would overwrite.
    """
    check_config(cfg)
    model_class(cfg)
    device = choose_device(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    try:
        make_output_folder(folder)
        if not training and any((folder / name).exists() for name in (METRICS, FINAL_WEIGHTS)):
            raise ConfigError(
                f"OUTPUT_DIR: {folder} holds a training run, whose config.yaml and results.json this would "
                f"overwrite; name another folder, such as OUTPUT_DIR {folder / 'test'}"
            )
        setup_logging(folder)
        if distributed.is_main_process():
            write_text(folder / "config.yaml", cfg.dump())
        write_stacks_to(folder)
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR: {folder} cannot be written to: {error.strerror or error}") from None
    logger.info(
        "vmae_det %s, torch %s, %d process(es) on %s; config in %s",
        vmae_det.__version__,
        torch.__version__,
        distributed.get_world_size(),
        device,
        folder / "config.yaml",
    )
    if training:
        for line in unused_keys(cfg):
            logger.warning(line)
    return device


def check_training_memory(cfg: CfgNode, device: torch.device) -> None:
    """Refuse a run that cannot fit into the memory of the device, before its first step.

    Raises:
        ConfigError: it says what needs how much.
    """
    there_is = device_memory(device)
    model, clips = min_training_bytes(cfg, distributed.get_world_size())
    if model + clips > there_is:
        number = clips_per_pass(cfg, distributed.get_world_size())
        raise ConfigError(
            f"{'MODEL.BACKBONE' if model > there_is else 'SOLVER.BATCH_SIZE'}: a process needs at least "
            f"{in_gb(model)} for weights, gradients and optimizer, and {in_gb(clips)} for the {number} clips "
            f"of a forward pass; its device has {in_gb(there_is)}. SOLVER.ACCUMULATE makes passes smaller"
        )


def build_model_with_weights(cfg: CfgNode, complete: bool = False) -> nn.Module:
    """The model with what MODEL.BACKBONE.CHECKPOINT and MODEL.WEIGHTS name.

    Where INPUT.CONVENTION is auto and MODEL.WEIGHTS a published detector, the config becomes published.

    Args:
        complete: WeightsError unless MODEL.WEIGHTS holds every parameter, as testing needs.
    """
    return _build_with_classes(cfg, complete)[0]


def _build_with_classes(cfg: CfgNode, complete: bool = False) -> tuple[nn.Module, ModelClasses | None]:
    """The same, with the classes of the head that MODEL.WEIGHTS holds, where it holds one and names them."""
    model, classes = build_model(cfg), None
    if cfg.MODEL.BACKBONE.CHECKPOINT and not cfg.MODEL.WEIGHTS:
        _load(model, cfg, cfg.MODEL.BACKBONE.CHECKPOINT, backbone_only=True)
    if cfg.MODEL.WEIGHTS:
        report = _load(model, cfg, cfg.MODEL.WEIGHTS, complete=complete)
        _settle_convention(cfg, report)
        has_head = any(not name.startswith("backbone.") for name in report.loaded)
        if has_head and model.task != "pretraining":
            classes = _stored_classes(cfg.MODEL.WEIGHTS)
        if complete and report.missing:
            raise WeightsError(
                f"{cfg.MODEL.WEIGHTS}: a {report.format} file without {', '.join(report.missing[:3])}: not "
                f"the weights of a trained {cfg.MODEL.META_ARCHITECTURE}"
            )
    elif complete:
        raise ConfigError("MODEL.WEIGHTS: names no file; testing needs the weights of a trained model")
    return model, classes


def _stored_classes(weights: str) -> ModelClasses | None:
    """The classes that travel with weights; None, and a warning, where they hold no names."""
    classes = ModelClasses.from_checkpoint(read_checkpoint(weights).get("label_map"), weights)
    if classes is None:
        logger.warning(
            "%s: holds no names of classes: its outputs are taken for the classes of the label map that they "
            "are used with, in its order",
            weights,
        )
    return classes


def _load(
    model: nn.Module, cfg: CfgNode, source: str, backbone_only: bool = False, complete: bool = False
) -> LoadReport:
    """Load a file into the model of a config, and compare that with the file's own."""
    content = read_checkpoint(source)
    report = load_weights(model, content, backbone_only=backbone_only, where=source)
    compare_configs(cfg, content, source, report, complete)
    logger.info("%s: %s", source, report)
    return report


def _settle_convention(cfg: CfgNode, report: LoadReport) -> None:
    """Take the published convention for a published detector, unless the config says which to take."""
    if cfg.INPUT.CONVENTION != "auto" or report.format != PUBLISHED_DETECTOR:
        return
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.INPUT.CONVENTION = "published"
    if frozen:
        cfg.freeze()
    logger.info(
        "INPUT.CONVENTION: published, as the weights are in %s format; centred gives this program's own",
        report.format,
    )


def run_evaluation(cfg: CfgNode) -> dict[str, float]:
    """Evaluate MODEL.WEIGHTS on DATASETS.TEST; metrics, also in OUTPUT_DIR/results.json."""
    device = start_run(cfg, training=False)
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST: names no dataset; give one such as \"('mini_ava_val',)\"")
    model, classes = _build_with_classes(cfg, complete=True)
    tests = _TestSets(cfg, device, classes)
    return tests.evaluate(model.to(device))


def run_training(cfg: CfgNode, resume: bool = False, hooks: Sequence[HookBase] = ()) -> dict[str, float]:
    """Train as the config says, then evaluate on DATASETS.TEST; gives the metrics.

    Leaves in OUTPUT_DIR: config.yaml, log.txt, metrics.jsonl, TensorBoard files, checkpoints,
    model_final.pt (with SOLVER.EMA_DECAY the averaged weights, which are also those evaluated), where there
    is DATASETS.TEST results.json, and with TEST.PERIOD model_best.pt.

    Args:
        resume: go on from the newest checkpoint in OUTPUT_DIR, or start where there is none.
        hooks: beside the usual ones.
    """
    device = start_run(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    checkpointer = Checkpointer(folder, cfg.SOLVER.KEEP_CHECKPOINTS, is_sharded(cfg))
    if checkpointer.all() and not resume:
        raise ConfigError(
            f"OUTPUT_DIR: {folder} holds checkpoints of a run; go on with it by --resume, "
            "or name another folder"
        )
    versions = code_versions()
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        get_dataset(name, cfg.DATASETS.ROOT)  # what is missing shows first
    check_training_memory(cfg, device)
    model, classes = _build_with_classes(cfg)
    newest = checkpointer.load_newest() if resume else None
    start = newest[1]["step"] if newest else 0
    if newest:
        classes = ModelClasses.from_checkpoint(newest[1].get("label_map"), str(newest[0])) or classes
    dataset = build_train_dataset(cfg, model_class(cfg).task, classes)
    epoch_steps = steps_per_epoch(cfg, dataset)
    total = epoch_steps * cfg.SOLVER.EPOCHS
    tests = _TestSets(cfg, device, dataset.classes)
    best_metric = choose_metric(cfg.TEST.BEST_METRIC, tests.metrics)
    if newest and newest[0].is_file():
        load_weights(model, newest[1]["model"], where=str(newest[0]))
    trained = spread(cfg, model.to(device), device)
    optimizer = build_optimizer(cfg, model)
    average = ModelEMA(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
    loader = build_train_loader(cfg, dataset, start)
    batches = iter(loader)
    trainer = Trainer(
        trained,
        optimizer,
        batches,
        device,
        accumulate=cfg.SOLVER.ACCUMULATE,
        clip_grad=cfg.SOLVER.CLIP_GRAD,
        amp=cfg.SOLVER.AMP,
        seed=cfg.SEED,
        measure_gradients=1 if cfg.SOLVER.ON_BAD_LOSS == "skip" else cfg.SOLVER.LOG_PERIOD,
    )
    guard = BadLossHandler(
        cfg.SOLVER.ON_BAD_LOSS == "skip", cfg.SOLVER.MAX_LOSS, cfg.SOLVER.MAX_SKIPPED, folder
    )
    if newest:
        path, state = newest
        restore(path, state, model, optimizer, average)
        trainer.scaler.load_state_dict(state["scaler"])
        guard.load_state_dict(state.get("loss_guard", guard.state_dict()))
        logger.info("resumed from %s, after step %d of %d", path, start, total)
        report_differences(state, cfg, versions)
    elif resume:
        logger.info("no whole checkpoint in %s: a fresh start", folder)

    label_map = dataset.classes and dataset.classes.to_checkpoint()

    def state() -> dict[str, Any]:
        averaged = {AVERAGED_WEIGHTS: average.state_dict()} if average else {}
        return averaged | {
            "model": model.state_dict(),
            "optimizer": tensors_by_name(optimizer) if is_sharded(cfg) else optimizer.state_dict(),
            "averages": average is not None,
            "scaler": trainer.scaler.state_dict(),
            "loss_guard": guard.state_dict(),
            "step": trainer.step,
            "epoch": trainer.step / epoch_steps,
            "seed": cfg.SEED,
            "num_processes": distributed.get_world_size(),
            "config": cfg.dump(),
            "label_map": label_map,
            "versions": versions,
        }

    def evaluated() -> nn.Module:
        """What is evaluated and saved, whole in each process; all of them call."""
        if average is None and not is_sharded(cfg):
            return model
        whole_model = build_model(cfg)
        load_weights(whole_model, full_state_dict((average or model).state_dict()))
        return whole_model.to(device)

    def save(shown: nn.Module, path: Path, **extras: Any) -> None:
        save_weights(shown.state_dict(), cfg.dump(), path, label_map, **extras)

    best = BestCheckpoint(folder, best_metric if cfg.TEST.PERIOD else None, newest is not None)

    def evaluate(shown: nn.Module, step: int) -> dict[str, float]:
        metrics = tests.evaluate(shown)
        best.offer(metrics, step, functools.partial(save, shown))
        return metrics

    period = cfg.SOLVER.CHECKPOINT_PERIOD * epoch_steps
    checkpointing = Checkpointing(checkpointer, state, period, guard.check)
    trainer.register_hooks(
        [
            LearningRate(build_schedule(cfg)),
            guard,
            *([average] if average else []),
            Timing(),
            Evaluation(
                lambda step: evaluate(evaluated(), step),
                cfg.TEST.PERIOD * epoch_steps if cfg.DATASETS.TEST else 0,
            ),
            BadVideos(loader.bad_samples),
            Writing(_writers(folder, start, total, cfg), cfg.SOLVER.LOG_PERIOD),
            checkpointing,
            StopOnSignal(checkpointing),
            *hooks,
        ]
    )
    logger.info(
        "%s, %.2f M parameters, %d clips an epoch, %d steps of %d videos",
        cfg.MODEL.META_ARCHITECTURE,
        sum(p.numel() for p in model.parameters()) / 1e6,
        len(dataset),
        total,
        cfg.SOLVER.BATCH_SIZE,
    )
    with closing(batches):  # ends the loader processes, however training ends
        trainer.train(start, total)
    shown = evaluated()
    in_main_process(lambda: save(shown, folder / FINAL_WEIGHTS))
    logger.info("weights in %s", folder / FINAL_WEIGHTS)
    return evaluate(shown, total)


def _writers(folder: Path, start: int, total: int, cfg: CfgNode) -> list[Writer]:
    writers: list[Writer] = []

    def build() -> None:
        writers.append(JSONWriter(folder / METRICS, start))
        writers.append(TensorBoardWriter(folder / "tensorboard", start))
        if cfg.WANDB.PROJECT:
            config = yaml.safe_load(cfg.dump())
            writers.append(WandbWriter(folder, cfg.WANDB.PROJECT, config, resumed=start > 0))
        writers.append(TerminalWriter(start, total, model_class(cfg).task))

    in_main_process(build)
    return writers


def set_labels(names: Sequence[str]) -> dict[str, str]:
    """What the results of each dataset are called: its name or its file's without folder and suffix, with as
    many of the folders above it as it takes to tell the sets apart.

    Raises:
        ConfigError: a dataset is named twice.
    """
    parts = [(*(part for part in Path(name).parent.parts if part != "/"), Path(name).stem) for name in names]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        labels = ["_".join(own[-depth:]) for own in parts]
        if len(set(labels)) == len(names):
            return dict(zip(names, labels))
    raise ConfigError(f"DATASETS.TEST: names two datasets alike: {', '.join(names)}")


class _TestSets:
    """The datasets of DATASETS.TEST, checked and opened before a long training starts.

    Args:
        classes: of the model; None: not known, those of each dataset.
    """

    def __init__(self, cfg: CfgNode, device: torch.device, classes: ModelClasses | None) -> None:
        self.cfg = cfg
        self.device = device
        task = model_class(cfg).task
        evaluator = (
            lookup(EVALUATOR_REGISTRY, task, "MODEL.META_ARCHITECTURE (its task)")
            if cfg.DATASETS.TEST
            else None
        )
        self.sets = {}  # by label
        self.metrics: list[Metric] = []  # what `evaluate` gives, but not in its order
        for name, label in set_labels(cfg.DATASETS.TEST).items():
            dataset = build_dataset(cfg, task, name, training=False, classes=classes)
            found = evaluator(cfg, dataset.spec)
            found.columns = dataset.columns
            self.sets[label] = (build_test_loader(cfg, dataset), found)
            lead = f"{label}/" if len(cfg.DATASETS.TEST) > 1 else ""
            self.metrics += [Metric(lead + metric, found.lower_is_better) for metric in found.metrics]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of all sets; with several, a name is led by the set's."""
        results = {}
        for label, (loader, evaluator) in self.sets.items():
            metrics = run_inference(model, loader, evaluator, self.device, self.cfg.SOLVER.AMP)
            logger.info("%s: %s", label, ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
            folder = Path(self.cfg.OUTPUT_DIR)
            if len(self.sets) > 1:
                metrics = {f"{label}/{key}": value for key, value in metrics.items()}
                folder = folder / label
            results |= metrics
            in_main_process(lambda evaluator=evaluator, folder=folder: evaluator.write(folder))
        if results:
            in_main_process(lambda: self._write(results))
        return results

    def _write(self, results: dict[str, float]) -> None:
        write_json(Path(self.cfg.OUTPUT_DIR) / "results.json", results)


def in_main_process(write: Callable[[], Any]) -> None:
    """Write something in the main process; an error of it, or of the disk, is raised in all."""
    failed: UserError | None = None
    if distributed.is_main_process():
        try:
            write()
        except UserError as error:
            failed = error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            failed = ConfigError(f"OUTPUT_DIR: {where}cannot be written: {error.strerror or error}")
    distributed.raise_together(failed)
