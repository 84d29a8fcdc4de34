"""Models, synthetic batches and single training steps of all tasks."""

import json
from pathlib import Path

import torch

from vmae_det import model_zoo
from vmae_det.data.mixup import BatchMixing
from vmae_det.engine.parallel import parallelize
from vmae_det.engine.trainer import AMP_TYPES, Trainer, to_device
from vmae_det.modeling import build_model
from vmae_det.solver import build_optimizer

TASKS = ("pretrain", "mocov3", "finetune", "detect")
# Not MoCo v3: for a few clips of noise, its batch norms divide by differences that are not much larger than
# rounding errors.
WELL_CONDITIONED = ("pretrain", "finetune", "detect")
_CONFIGS = {
    "pretrain": "Kinetics/vit_{}_16x4_pretrain.yaml",
    "mocov3": "Kinetics/vit_{}_16x4_mocov3.yaml",
    "finetune": "Kinetics/vit_{}_16x4_finetune.yaml",
    "detect": "AVA/vit_{}_16x4.yaml",
}
_SMALL_FRAMES = ("INPUT.NUM_FRAMES", 4, "INPUT.CROP_SIZE", 64, "INPUT.TRAIN_SHORT_SIDE", 64)


def full_width_config(task, size, device, *overrides):
    """Return the config of ViT-S or ViT-B: 16 x 224 x 224 on a GPU, 4 x 64 x 64 on the CPU."""
    cfg = model_zoo.get_config(_CONFIGS[task].format(size))
    frames = () if device.type == "cuda" else _SMALL_FRAMES
    cfg.merge_from_list([*frames, "MODEL.DEVICE", device.type, *overrides])
    return cfg


def make_batch(cfg, clips=2, persons=(2, 3), size=None):
    """Return a random batch on the CPU, for training and evaluation.

    Args:
        persons: numbers of persons of the clips, repeated as needed.
        size: height and width; None: INPUT.CROP_SIZE.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size or (cfg.INPUT.CROP_SIZE,) * 2
    shape = (clips, 3, cfg.INPUT.NUM_FRAMES, height, width)
    batch = {
        "video": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "seed": torch.arange(clips),
    }
    task = cfg.MODEL.META_ARCHITECTURE
    if task == "MoCoV3":
        batch["video2"] = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if task == "VideoClassifier":
        batch["label"] = torch.arange(clips) % cfg.MODEL.CLASSIFIER.NUM_CLASSES
        if mixing := BatchMixing.from_config(cfg):
            batch["mixing"] = mixing(0, clips)
    if task == "ActionDetector":
        counts = [persons[clip % len(persons)] for clip in range(clips)]
        corners = [torch.rand(count, 2, 2, generator=generator).sort(dim=1).values for count in counts]
        batch["boxes"] = [(corner * torch.tensor([width, height])).flatten(1) for corner in corners]
        classes = cfg.MODEL.ROI_HEAD.NUM_CLASSES
        batch["labels"] = [torch.rand(count, classes, generator=generator).round() for count in counts]
        batch["person_scores"] = [torch.ones(count) for count in counts]
    return batch


def build(cfg, device):
    """Return the model in training mode. It has the same weights on every device."""
    return build_model(cfg).to(device).train()


def loss_and_gradients(model, batch, device, amp="none"):
    """Return the loss and the gradients by name, on the CPU in float32.

    The loss is scaled as in the trainer, so that gradients do not underflow in fp16.
    """
    scale = 2.0**12 if amp == "fp16" else 1.0
    amp_type = AMP_TYPES[amp]
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast(device.type, amp_type, enabled=amp_type is not None):
        loss = sum(model(to_device(batch, device)).values())
    (loss * scale).backward()
    gradients = {name: p.grad.cpu() / scale for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients


def gradient_errors(gradients, expected):
    """Return the relative error of all gradients together, and the largest of a tensor, by the norm.

    The error of a tensor is divided by at least 1e-3 of the norm of all gradients per value, because rounding
    errors of the others reach tensors whose gradient is almost zero.
    """
    assert gradients.keys() == expected.keys()
    assert all(value.isfinite().all() for value in gradients.values())
    total = norm(expected.values())
    count = sum(value.numel() for value in expected.values())
    worst = 0.0
    for name, value in expected.items():
        floor = 1e-3 * total * (value.numel() / count) ** 0.5
        worst = max(worst, norm([gradients[name] - value]) / max(norm([value]), floor))
    return norm([gradients[name] - value for name, value in expected.items()]) / total, worst


def norm(tensors):
    """Return the Euclidean norm of all values."""
    return float(torch.stack([tensor.double().norm() for tensor in tensors]).norm())


def make_trainer(cfg, device, batches):
    """Return a `Trainer` without hooks on some batches, in training mode."""
    model = build(cfg, device)
    trained = parallelize(cfg, model, device)
    optimizer = build_optimizer(cfg, model)
    solver = cfg.SOLVER
    return Trainer(
        *(trained, optimizer, iter(batches), device),
        accumulate=solver.ACCUMULATE,
        clip_grad=solver.CLIP_GRAD,
        amp=solver.AMP,
        seed=cfg.SEED,
    )


def losses_of_steps(cfg, device, batches):
    """Take a training step on each batch, and return the losses."""
    trainer, losses = make_trainer(cfg, device, batches), []
    for _ in batches:
        trainer.run_step()
        trainer.step += 1
        losses.append(float(trainer.loss))
    return losses


def final_weights(folder):
    """Return the weights of a finished run."""
    return torch.load(Path(folder) / "model_final.pt", weights_only=True)["model"]


def loss_curve(folder):
    """Return the logged losses of a run by step."""
    lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["step"]: entry["loss"] for entry in map(json.loads, lines)}
