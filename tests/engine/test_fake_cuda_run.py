"""Training, evaluation and detection on fake CUDA tensors: what waits for the GPU, and why.

These run on stand-ins: `Trainer.run_step` with clipping, accumulation, AdamW, SGD and the loss scaler; the
hooks that use tensors on the device; the evaluators; `EagerModel`. Covered by review only: streams and pinned
memory, DDP and FSDP2, checkpoints, exported models, person detectors, pictures.
"""

import itertools

import numpy as np
import pytest
import torch
from fake_cuda import HiddenWait, backward_stand_in, expected_waits, fake_cuda, no_waits, to_fake
from torch._subclasses.fake_tensor import unset_fake_temporarily

from vmae_det.config import get_cfg
from vmae_det.data.loader import _add_mixing
from vmae_det.data.mixup import BatchMixing
from vmae_det.engine import trainer as trainer_module
from vmae_det.engine.bad_loss import BadLossHandler
from vmae_det.engine.ema import ModelEMA
from vmae_det.engine.evaluation import run_inference
from vmae_det.engine.hooks import PeriodicWriter, StepTimer, TrainingError
from vmae_det.engine.trainer import Trainer
from vmae_det.evaluation.evaluators import EVALUATOR_REGISTRY
from vmae_det.inference import scorers
from vmae_det.inference.scorers import EagerModel
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_optimizer
from vmae_det.utils.events import Writer

CUDA = torch.device("cuda", 0)
COUNTS = (2, 0, 1)  # boxes of each clip
CLASSES = 5


def config(model, *overrides):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", model, "INPUT.CROP_SIZE", 32, "INPUT.NUM_FRAMES", 4),
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 1, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.DECODER.EMBED_DIM", 12, "MODEL.DECODER.DEPTH", 1, "MODEL.DECODER.NUM_HEADS", 2),
            *("MODEL.MASK.RATIO", 0.5, "MODEL.ROI_HEAD.NUM_CLASSES", CLASSES),
            *("MODEL.CLASSIFIER.NUM_CLASSES", CLASSES),
            *overrides,
        ]
    )
    return cfg


@unset_fake_temporarily()
def build_real(cfg):
    """Return a model on the CPU. Its initialization reads values."""
    return build_model(cfg)


@unset_fake_temporarily()
def make_batch(training):
    """Return a real batch for any task, as the loader collates it."""
    clips = len(COUNTS)
    batch = {
        "video": torch.zeros(clips, 3, 4, 32, 32, dtype=torch.uint8),
        "seed": torch.arange(clips),
        "index": torch.arange(clips),
        "label": torch.arange(clips),
        "boxes": [torch.zeros(count, 4) for count in COUNTS],
        "path": [f"{clip}.mp4" for clip in range(clips)],
    }
    if training:
        return batch | {"labels": [torch.zeros(count, CLASSES) for count in COUNTS]}
    return batch | {
        "person_scores": [torch.ones(count) for count in COUNTS],
        "size": [torch.tensor([28.0, 32.0])] * clips,
        "boxes_relative": [np.zeros((count, 4), np.float32) for count in COUNTS],
        "video_name": ["a", "b", "c"],
        "timestamp": [902.0] * clips,
    }


@pytest.fixture
def cuda(monkeypatch):
    """The fake device, with a stand-in for the backward pass."""
    monkeypatch.setattr(torch.Tensor, "backward", backward_stand_in)
    with fake_cuda():
        yield CUDA


def build_trainer(cfg, **options):
    """Return a trainer and its model, as `TrainingRun` builds them."""
    model = to_fake(build_real(cfg)).train()
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    batches = (make_batch(training=True) for _ in itertools.count())
    trainer = Trainer(model, optimizer, batches, CUDA, **options)
    trainer.total_steps = 4
    return trainer, model


def run_step(trainer):
    """Run a step and the hooks, as `Trainer.train` does."""
    for hook in trainer.hooks:
        hook.before_step()
    trainer.run_step()
    trainer.step += 1
    trainer._handle_events()
    for hook in trainer.hooks:
        hook.after_step()


STEPS = {
    "plain": ({}, {}),
    "clipped": ({}, {"clip_grad": 1.0}),
    "measured": ({}, {"measure_gradients": 1}),
    "sgd": ({"SOLVER.OPTIMIZER": "sgd"}, {"accumulate": 2}),
    "bf16": ({}, {"amp": "bf16", "clip_grad": 1.0}),
    "fp16": ({}, {"amp": "fp16", "clip_grad": 1.0, "accumulate": 2}),
    "fp16_sgd": ({"SOLVER.OPTIMIZER": "sgd"}, {"amp": "fp16"}),
}


@pytest.mark.parametrize("case", STEPS)
def test_a_training_step_does_not_wait(cuda, case):
    keys, options = STEPS[case]
    trainer, model = build_trainer(config("ActionDetector", *itertools.chain(*keys.items())), **options)
    ema = ModelEMA(model, 0.9)
    trainer.register_hooks([ema])
    with no_waits():
        for _ in range(2):
            run_step(trainer)
    tensors = [*model.parameters(), *ema.weights.values(), trainer.loss]
    tensors += [value for state in trainer.optimizer.state.values() for value in state.values()]
    if "clip_grad" in options or "measure_gradients" in options:
        tensors.append(trainer.gradient_norm)
    assert {(tensor.dtype, tensor.device) for tensor in tensors} == {(torch.float32, CUDA)}
    assert all(len(state) >= 1 for state in trainer.optimizer.state.values())  # the optimizer ran


@pytest.mark.parametrize("model", ["MaskedAutoencoder", "VideoClassifier"])
def test_a_training_step_of_the_other_tasks_does_not_wait(cuda, model):
    trainer, _ = build_trainer(config(model), amp="bf16", clip_grad=1.0)
    with no_waits():
        run_step(trainer)


def test_a_wait_in_a_step_is_found(cuda, monkeypatch):
    trainer, _ = build_trainer(config("ActionDetector"))
    monkeypatch.setattr(trainer.storage, "put", lambda _, value: float(value.detach()))
    with no_waits(), pytest.raises(HiddenWait, match="a value on the GPU is read"):
        run_step(trainer)


def test_a_batch_is_copied_without_waiting(cuda, monkeypatch):
    monkeypatch.setattr(trainer_module, "to_device", lambda batch, device: to_fake(batch))
    trainer, _ = build_trainer(config("ActionDetector"))
    with no_waits(), pytest.raises(HiddenWait, match=r"copied from cpu to cuda:0"):
        run_step(trainer)


def test_mixing_parameters_are_pinned(monkeypatch):
    """They are drawn in the main process, after torch's loader has pinned the rest of the batch."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    mixing = BatchMixing.from_config(config("VideoClassifier", "INPUT.MIXUP", 0.8))
    batch = _add_mixing(mixing, 0, 0, True, 0, {"label": torch.arange(4)})
    assert [id(tensor) for tensor in pinned] == [id(tensor) for tensor in batch["mixing"].values()]


# ---------------------------------------------------------------- hooks


def test_the_loss_is_checked_one_step_later(cuda, tmp_path):
    """It waits for the event of the previous step, so the GPU has a step to work on meanwhile."""
    trainer, _ = build_trainer(config("ActionDetector"))
    trainer.register_hooks([BadLossHandler(False, 100.0, 5, tmp_path)])
    with no_waits():
        run_step(trainer)
        with expected_waits("the loss of the previous step is read") as waits:
            run_step(trainer)
    assert len(waits) == 1
    with no_waits(), expected_waits("the losses are read", value=101):
        run_step(trainer)
        with pytest.raises(TrainingError, match="loss is 101 at step 3"):
            run_step(trainer)


def test_skipping_bad_losses_waits_in_each_step(cuda, tmp_path):
    """SOLVER.ON_BAD_LOSS skip: the loss and the norm of the gradient decide on the update."""
    trainer, _ = build_trainer(config("ActionDetector"), measure_gradients=1)
    trainer.register_hooks([BadLossHandler(True, 100.0, 5, tmp_path)])
    with no_waits(), expected_waits("the loss and the norm of the gradient are read") as waits:
        run_step(trainer)
    assert len(waits) == 2


def test_weights_are_checked_before_a_checkpoint(cuda, tmp_path):
    trainer, _ = build_trainer(config("ActionDetector"))
    hook = BadLossHandler(False, 100.0, 5, tmp_path)
    trainer.register_hooks([hook])
    with no_waits():
        run_step(trainer)
        with expected_waits("the last loss and the norm of the weights are read") as waits:
            hook.check()
    assert len(waits) == 2


def test_metrics_are_read_once_a_period(cuda):
    """SOLVER.LOG_PERIOD: one wait for each metric on the device."""
    trainer, _ = build_trainer(config("ActionDetector"), clip_grad=1.0)
    written = []
    writer = Writer()
    writer.write = lambda step, values: written.append(values)
    trainer.register_hooks([StepTimer(), PeriodicWriter([writer], period=2)])
    with no_waits():
        run_step(trainer)
        with expected_waits("loss and gradient_norm are written") as waits:
            run_step(trainer)
    assert len(waits) == 2
    assert written[0]["peak_memory_gb"] == 1


# ---------------------------------------------------------------- evaluation and detection


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("model", ["MaskedAutoencoder", "VideoClassifier", "ActionDetector"])
def test_evaluation_waits_once_a_batch(cuda, model, amp):
    cfg = config(model)
    evaluator = EVALUATOR_REGISTRY.get(model_class(cfg).task)(cfg, None)
    evaluator.evaluate = dict
    fake = to_fake(build_real(cfg))
    loader = [[make_batch(training=False)], [make_batch(training=False)]]
    with no_waits(), expected_waits("the evaluator copies the predictions to the CPU") as waits:
        run_inference(fake, loader, evaluator, cuda, amp)
    assert len(waits) == 2
    stored = evaluator._scores if model == "ActionDetector" else [part[-1] for part in evaluator._parts]
    assert sum(len(values) for values in stored) == 6
    assert all(isinstance(values, np.ndarray) for values in stored)


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_detection_waits_once_a_batch(cuda, monkeypatch, amp):
    monkeypatch.setattr(scorers, "setup_device", lambda _: cuda)
    monkeypatch.setattr(scorers, "build_model_with_weights", lambda cfg, complete: build_real(cfg))
    scorer = EagerModel(config("ActionDetector", "SOLVER.AMP", amp))
    batch = {key: make_batch(False)[key] for key in ("video", "boxes", "person_scores", "size")}
    with no_waits(), expected_waits("the scores are copied to the CPU") as waits:
        scores = scorer(batch)
    assert len(waits) == 1
    assert [(rows.shape, rows.dtype) for rows in scores] == [((n, CLASSES), np.float32) for n in COUNTS]
