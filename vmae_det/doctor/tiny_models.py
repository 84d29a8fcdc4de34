"""The tiny models, batches and training steps that the checks of training, DDP and export share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from vmae_det.config import CfgNode, get_cfg
from vmae_det.engine.parallel import parallelize
from vmae_det.engine.trainer import Trainer
from vmae_det.modeling import build_model
from vmae_det.solver import build_optimizer

_ARCHITECTURES = {
    "pretraining": "MaskedAutoencoder",
    "classification": "VideoClassifier",
    "detection": "ActionDetector",
}
_STEPS = 2
_MAX_SKIPPED = 12  # steps in which the loss scale of fp16, which starts at 65536, may be too large
_CLASSES, _SIDE = 5, 64
# Pre-training masks half of its tokens. With twice as many frames, its encoder processes as many tokens as
# those of the other tasks, so torch.compile reuses their graph.
_FRAMES = {"pretraining": 8, "classification": 4, "detection": 4}


@dataclass(frozen=True)
class StepResult:
    """Numbers of a short training run on one batch.

    Attributes:
        loss, gradient_norm: of the first step whose gradients are finite.
        last_loss: of the last step.
    """

    loss: float
    gradient_norm: float
    last_loss: float


def tiny_config(task: str, *overrides: Any) -> CfgNode:
    """Return the config of a small model of a task, without random layers."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", _ARCHITECTURES[task], "MODEL.ROI_HEAD.BOX_JITTER", False),
            *("MODEL.BACKBONE.EMBED_DIM", 64, "MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.BACKBONE.DROP_PATH", 0.0, "MODEL.MASK.RATIO", 0.5),
            *("MODEL.DECODER.EMBED_DIM", 64, "MODEL.DECODER.DEPTH", 1, "MODEL.DECODER.NUM_HEADS", 2),
            *("MODEL.CLASSIFIER.NUM_CLASSES", _CLASSES, "MODEL.ROI_HEAD.NUM_CLASSES", _CLASSES),
            *("INPUT.NUM_FRAMES", _FRAMES[task], "INPUT.CROP_SIZE", _SIDE, "SOLVER.BASE_LR", 1e-3),
            *overrides,
        ]
    )
    return cfg


def tiny_batch(task: str, first: int = 0, count: int = 2) -> dict[str, Any]:
    """Return clips `first` to `first + count - 1` of an endless training set of noise."""
    clips = range(first, first + count)
    shape = (3, _FRAMES[task], _SIDE, _SIDE)
    videos = [
        torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(clip), dtype=torch.uint8)
        for clip in clips
    ]
    batch: dict[str, Any] = {"video": torch.stack(videos), "seed": torch.tensor(list(clips))}
    if task == "classification":
        batch["label"] = torch.tensor([clip % _CLASSES for clip in clips])
    if task == "detection":
        boxes = torch.tensor([[4.0, 8.0, 40.0, 60.0], [10.0, 2.0, 56.5, 50.25]])
        batch["boxes"] = [boxes[: 1 + clip % 2] for clip in clips]  # numbers of persons differ
        batch["labels"] = [torch.eye(_CLASSES)[[clip % _CLASSES, 2][: 1 + clip % 2]] for clip in clips]
    return batch


def train_steps(cfg: CfgNode, batch: dict[str, Any], device: torch.device) -> StepResult:
    """Take steps on one batch with the trainer and the optimizer of a real run."""
    torch.manual_seed(0)
    model = build_model(cfg).to(device)
    trainer = Trainer(
        parallelize(cfg, model, device),
        build_optimizer(cfg, model),
        (dict(batch) for _ in itertools.count()),
        device,
        amp=cfg.SOLVER.AMP,
        clip_grad=1.0,
    )
    trainer.model.train()
    results: list[tuple[float, float]] = []
    for trainer.step in range(_STEPS + _MAX_SKIPPED):
        trainer.run_step()
        loss, norm = float(trainer.loss), float(trainer.gradient_norm)
        if norm - norm == 0 or cfg.SOLVER.AMP != "fp16":  # finite; else the loss scale is halved
            results.append((loss, norm))
        if len(results) == _STEPS:
            break
    if not results:
        return StepResult(loss, norm, loss)
    return StepResult(*results[0], results[-1][0])
