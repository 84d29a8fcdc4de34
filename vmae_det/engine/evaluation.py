"""Evaluation: run a model on the datasets of DATASETS.TEST and compute their metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from vmae_det.config import CfgNode
from vmae_det.data.classes import ModelClasses
from vmae_det.data.loader import build_dataset, build_test_loader
from vmae_det.data.test_time_augmentation import (
    add_persons,
    average_scores,
    log_views,
    views_of,
    warn_about_flip,
)
from vmae_det.engine.best_checkpoint import Metric
from vmae_det.engine.setup import setup_run, write_on_main_process
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.engine.weights import build_model_and_classes
from vmae_det.evaluation.evaluators import EVALUATOR_REGISTRY, Evaluator
from vmae_det.modeling import model_class
from vmae_det.utils import distributed
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.output_files import write_json
from vmae_det.utils.registry import lookup
from vmae_det.utils.watchdog import heartbeat

logger = logging.getLogger(__name__)

RESULTS = "results.json"


LoadModel = Callable[[CfgNode], tuple[nn.Module, ModelClasses | None]]


def load_weights_and_classes(cfg: CfgNode) -> tuple[nn.Module, ModelClasses | None]:
    """Return the model with MODEL.WEIGHTS, and its classes.

    The weights must have all parameters, or those that begin with one of `evaluated_parts` of the model.
    """
    required = getattr(model_class(cfg), "evaluated_parts", ("",))
    return build_model_and_classes(cfg, complete=True, required=required)


def run_evaluation(cfg: CfgNode, load_model: LoadModel = load_weights_and_classes) -> dict[str, float]:
    """Evaluate MODEL.WEIGHTS on DATASETS.TEST, write OUTPUT_DIR/results.json, and return the metrics.

    Args:
        load_model: returns the model and its classes.
    """
    device = setup_run(cfg, training=False)
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST: is empty; set a dataset such as \"('mini_ava_val',)\"")
    model, classes = load_model(cfg)
    test_sets = TestSets(cfg, device, classes)
    return test_sets.evaluate(model.to(device))


class TestSets:
    """The datasets of DATASETS.TEST with their loaders and evaluators.

    Datasets are read when this is built, so that errors in them are found before a long training.

    Args:
        classes: of the model. None uses the classes of each dataset.

    Attributes:
        metrics: all metrics that `evaluate` returns, in no particular order.
    """

    __test__ = False  # not a test class of pytest

    def __init__(self, cfg: CfgNode, device: torch.device, classes: ModelClasses | None) -> None:
        self.cfg = cfg
        self.device = device
        self.sets: dict[str, tuple[Iterable, Evaluator]] = {}  # by label
        self.metrics: list[Metric] = []
        if not cfg.DATASETS.TEST:
            return
        task = model_class(cfg).task
        evaluator_class = lookup(EVALUATOR_REGISTRY, task, "MODEL.META_ARCHITECTURE (its task)")
        self.flip = cfg.TEST.FLIP and task == "detection"
        log_views(cfg)
        for name, label in dataset_labels(cfg.DATASETS.TEST).items():
            dataset = build_dataset(cfg, task, name, training=False, classes=classes)
            evaluator = evaluator_class(cfg, dataset.spec)
            evaluator.columns = dataset.columns
            if self.flip:
                warn_about_flip(cfg, dataset.label_map)
            self.sets[label] = (build_test_loader(cfg, dataset), evaluator)
            prefix = f"{label}/" if len(cfg.DATASETS.TEST) > 1 else ""
            self.metrics += [
                Metric(prefix + metric, evaluator.lower_is_better) for metric in evaluator.metrics
            ]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of all datasets, and write them. All processes must call this.

        With several datasets, each metric has the prefix LABEL/, and each dataset has its own folder.
        """
        results = {}
        for label, (loader, evaluator) in self.sets.items():
            metrics = run_inference(model, loader, evaluator, self.device, self.cfg.SOLVER.AMP, self.flip)
            logger.info("%s: %s", label, ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
            folder = Path(self.cfg.OUTPUT_DIR)
            if len(self.sets) > 1:
                metrics = {f"{label}/{key}": value for key, value in metrics.items()}
                folder = folder / label
            results |= metrics
            write_on_main_process(lambda evaluator=evaluator, folder=folder: evaluator.write(folder))
        if results:
            write_on_main_process(lambda: write_json(Path(self.cfg.OUTPUT_DIR) / RESULTS, results))
        return results


@torch.no_grad()
def run_inference(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    evaluator: Evaluator,
    device: torch.device,
    amp: str = "none",
    flip: bool = False,
) -> dict[str, float]:
    """Return the metrics of a model over all batches of all processes. It leaves the model in eval mode.

    Args:
        flip: for detection, also score each clip flipped.
    """
    model.eval()
    evaluator.reset()
    amp_type = AMP_TYPES[amp]
    hide_bar = None if distributed.is_main_process() else True  # None: hide if not a terminal
    for batches in tqdm(loader, desc="evaluating", unit="batch", disable=hide_bar, leave=False):
        heartbeat()
        for batch in batches:
            with torch.autocast(device.type, amp_type, enabled=amp_type is not None):
                evaluator.process(batch, _predict(model, batch, device, flip))
    heartbeat()
    return evaluator.evaluate()


def _predict(model: nn.Module, batch: dict[str, Any], device: torch.device, flip: bool) -> dict[str, Any]:
    """Return the predictions of a model on a batch; with several views, the mean of their scores.

    If the model finds the people of a batch without boxes, it does so in the first view.
    """
    views = views_of(batch, flip)
    first = model(to_device(next(views), device))
    heartbeat()
    if "boxes" in first:
        views = views_of(add_persons(batch, to_device(first, torch.device("cpu"))), flip)
        next(views)
    others = []
    for view in views:
        others.append(model(to_device(view, device))["scores"])
        heartbeat()
    return first | {"scores": average_scores([first["scores"], *others])} if others else first


def dataset_labels(names: Sequence[str]) -> dict[str, str]:
    """Return a short label for each dataset: its name, or its file's name without folder and suffix.

    Parent folders are added to the labels, as many as are needed to make them unique.

    Raises:
        ConfigError: two datasets get the same label.
    """
    parts = [(*(part for part in Path(name).parent.parts if part != "/"), Path(name).stem) for name in names]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        labels = ["_".join(path[-depth:]) for path in parts]
        if len(set(labels)) == len(names):
            return dict(zip(names, labels))
    raise ConfigError(f"DATASETS.TEST: two datasets have the same label: {', '.join(names)}")
