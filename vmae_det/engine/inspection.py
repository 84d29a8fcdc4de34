"""What a config describes, worked out without data and without a GPU: size, cost, memory, rates.

Networks are built on tensors that have a shape and no memory, so that the largest needs no more than the
smallest.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vmae_det.config import CfgNode
from vmae_det.data.catalog import dataset_names, datasets_root
from vmae_det.data.loader import build_train_dataset, steps_per_epoch
from vmae_det.engine.trainer import AMP_TYPES
from vmae_det.modeling import build_model, model_class
from vmae_det.solver import build_schedule, parameter_groups
from vmae_det.utils.errors import ConfigError, UserError

FLOAT_BYTES = 4  # of a weight, its gradient, and each number that the optimizer keeps for it


@dataclass(frozen=True)
class Tokens:
    """How many tokens of a clip go where.

    Attributes:
        grid: (t, h, w) of all tokens.
        encoded: tokens that the backbone sees; all, but in pre-training.
        decoded: tokens that the decoder sees; 0 without one.
        predicted: tokens whose pixels the decoder predicts.
    """

    grid: tuple[int, int, int]
    encoded: int
    decoded: int = 0
    predicted: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes of training, on each process, beside what kernels use for a moment.

    Attributes:
        weights: of all parameters.
        gradients: of the trained ones.
        optimizer: AdamW keeps two numbers for each of them, SGD with momentum one.
        average: of the running average of the weights, where there is one.
        casts: copies of weights in the type of mixed precision.
        clip: activations of one clip that the backward pass needs, without those of attention's products,
            which fused kernels compute again.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    casts: int
    clip: int

    def total(self, clips: int) -> int:
        """Bytes with `clips` clips in one forward pass."""
        fixed = self.weights + self.gradients + self.optimizer + self.average + self.casts
        return fixed + clips * self.clip


@dataclass(frozen=True)
class RateGroup:
    """Parameters that learn at one rate: `lr_scale` times the schedule's."""

    parts: list[str]
    lr_scale: float
    decaying: int
    not_decaying: int


@dataclass(frozen=True)
class Inspection:
    """What `inspect_config` finds.

    Attributes:
        parameters: by part: backbone and the modules beside it.
        trainable: number of parameters that are trained.
        flops: multiply-adds of one clip, forward.
        schedule: learning rate by progress in [0, 1).
        steps: optimizer steps of an epoch; None where the training set is not at hand, and `no_steps` says
            why.
    """

    tokens: Tokens
    parameters: dict[str, int]
    trainable: int
    flops: float
    memory: Memory
    rates: list[RateGroup]
    schedule: Callable[[float], float] = field(repr=False)
    steps: int | None
    no_steps: str

    @property
    def total_parameters(self) -> int:
        """Number of all parameters."""
        return sum(self.parameters.values())


def inspect_config(cfg: CfgNode) -> Inspection:
    """All that can be said of a config before a run.

    Raises:
        ConfigError: MODEL.META_ARCHITECTURE is of a task that no probe is known for.
    """
    model = empty_model(cfg)
    tokens = count_tokens(cfg)
    steps, reason = _steps(cfg)
    return Inspection(
        tokens=tokens,
        parameters={name: count(child) for name, child in _parts(model).items() if count(child)},
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=count_flops(cfg, tokens),
        memory=estimate_memory(cfg, tokens),
        rates=rate_groups(cfg, model),
        schedule=build_schedule(cfg),
        steps=steps,
        no_steps=reason,
    )


def empty_model(cfg: CfgNode) -> nn.Module:
    """The model that a config describes, with parameters that have a shape and no memory."""
    with torch.device("meta"):
        return build_model(cfg)


def count(module: nn.Module | nn.Parameter) -> int:
    """Number of parameters of a module, or of values of one parameter."""
    if isinstance(module, nn.Parameter):
        return module.numel()
    return sum(p.numel() for p in module.parameters())


def _parts(model: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    return dict(model.named_children()) | dict(model.named_parameters(recurse=False))


# ---------------------------------------------------------------- one clip through a model


class _Classified(nn.Module):
    """A classifier from normalised video to logits."""

    def __init__(self, model: nn.Module, cfg: CfgNode, tokens: Tokens) -> None:
        super().__init__()
        self.model = model
        self.shape = (3, cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE, cfg.INPUT.CROP_SIZE)

    def inputs(self, clips: int, device: str) -> tuple[torch.Tensor, ...]:
        """Arguments of `forward` for so many clips."""
        return (torch.zeros(clips, *self.shape, device=device),)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.model.logits(video)


class _Detected(_Classified):
    """A detector with one person in each clip."""

    def inputs(self, clips: int, device: str) -> tuple[torch.Tensor, ...]:
        side = self.shape[-1]
        boxes = [torch.tensor([[0.0, 0.0, side, side]], device=device) for _ in range(clips)]
        return (*super().inputs(clips, device), *boxes)

    def forward(self, video: torch.Tensor, *boxes: torch.Tensor) -> torch.Tensor:
        return self.model.logits(video, list(boxes))


class _Reconstructed(nn.Module):
    """An autoencoder from visible cubes to predicted values, without the choice of the cubes."""

    def __init__(self, model: nn.Module, cfg: CfgNode, tokens: Tokens) -> None:
        super().__init__()
        self.model = model
        self.tokens = tokens
        self.values = 3 * cfg.MODEL.BACKBONE.TUBELET_SIZE * cfg.MODEL.BACKBONE.PATCH_SIZE**2

    def inputs(self, clips: int, device: str) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(clips, self.tokens.encoded, self.values, device=device),)

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        model, tokens = self.model, self.tokens
        seen = model.backbone.encode(cubes, model.backbone.positions[: tokens.encoded])
        seen = model.encoder_to_decoder(seen)
        hidden = model.mask_token.expand(len(cubes), tokens.decoded - tokens.encoded, -1).to(seen.dtype)
        return model.decoder(torch.cat([seen, hidden], dim=1), tokens.predicted)


_PROBES = {"classification": _Classified, "detection": _Detected, "pretraining": _Reconstructed}


def _probe(cfg: CfgNode, tokens: Tokens) -> nn.Module:
    task = model_class(cfg).task
    if task not in _PROBES:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE} is of the task '{task}', which inspect "
            f"does not know; known are: {', '.join(_PROBES)}"
        )
    return _PROBES[task](empty_model(cfg), cfg, tokens)


def count_tokens(cfg: CfgNode) -> Tokens:
    """Tokens of a training clip; in pre-training as a narrow and shallow model handles them."""
    node = cfg.MODEL.BACKBONE
    side = cfg.INPUT.CROP_SIZE // node.PATCH_SIZE
    grid = (cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE, side, side)
    if model_class(cfg).task != "pretraining":
        return Tokens(grid, encoded=math.prod(grid))
    small = cfg.clone()
    small.defrost()
    for part in (small.MODEL.BACKBONE, small.MODEL.DECODER):
        part.EMBED_DIM, part.DEPTH, part.NUM_HEADS = 6, 1, 1
    model = build_model(small).train()
    seen: dict[str, Any] = {}
    model.backbone.patch_embed.register_forward_pre_hook(lambda _, args: seen.update(encoded=args[0]))
    model.decoder.register_forward_pre_hook(lambda _, args: seen.update(decoded=args[0]))
    model.decoder.register_forward_hook(lambda _, args, result: seen.update(predicted=result))
    frames = {"video": cfg.INPUT.NUM_FRAMES, "target": cfg.MODEL.RECONSTRUCTION.NUM_FRAMES}
    side = cfg.INPUT.CROP_SIZE
    clips = {
        name: torch.zeros(1, 3, number, side, side, dtype=torch.uint8)
        for name, number in frames.items()
        if number
    }
    with torch.no_grad():
        model(clips | {"seed": torch.zeros(1, dtype=torch.int64)})
    return Tokens(grid, **{name: tensor.shape[1] for name, tensor in seen.items()})


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of both products of fused attention: (..., M, C) with keys and values (..., N, C)."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def count_flops(cfg: CfgNode, tokens: Tokens) -> float:
    """Multiply-adds of one clip in a forward pass, of a detector with one person, without the loss.

    fvcore counts linear maps and norms; element-wise operations count nothing.
    """
    probe = _probe(cfg, tokens).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on the tracer that fvcore uses
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(probe, probe.inputs(1, "meta"))
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        return analysis.total()


# ---------------------------------------------------------------- memory


def estimate_memory(cfg: CfgNode, tokens: Tokens) -> Memory:
    """Bytes of training; activations are those that autograd keeps of a forward pass in SOLVER.AMP."""
    one, two = (_kept_bytes(cfg, tokens, clips) for clips in (1, 2))
    model = empty_model(cfg)
    weights = FLOAT_BYTES * count(model)
    trained = FLOAT_BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)
    numbers = 2 if cfg.SOLVER.OPTIMIZER == "adamw" else int(cfg.SOLVER.MOMENTUM > 0)
    return Memory(
        weights=weights,
        gradients=trained,
        optimizer=numbers * trained,
        average=weights if cfg.SOLVER.EMA_DECAY else 0,
        casts=max(2 * one - two, 0),
        clip=two - one,
    )


def _kept_bytes(cfg: CfgNode, tokens: Tokens, clips: int) -> int:
    """Bytes of all tensors, parameters aside, that autograd keeps for the backward pass of `clips` clips."""
    probe = _probe(cfg, tokens).train()
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    amp = AMP_TYPES[cfg.SOLVER.AMP]
    with FakeTensorMode(allow_non_fake_inputs=True):
        probe.to_empty(device="cpu")
        inputs = probe.inputs(clips, "cpu")
        own = {tensor.untyped_storage()._cdata for tensor in [*probe.parameters(), *probe.buffers()]}
        with (
            torch.autocast("cpu", amp, enabled=amp is not None),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            result = probe(*inputs)
        del result
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


# ---------------------------------------------------------------- rates


def rate_groups(cfg: CfgNode, model: nn.Module) -> list[RateGroup]:
    """The parameters by their rate, slowest first."""
    solver = cfg.SOLVER
    found: dict[float, dict[str, Any]] = {}
    for group in parameter_groups(model, solver.WEIGHT_DECAY, solver.LAYER_DECAY, solver.HEAD_LR_FACTOR):
        entry = found.setdefault(group["lr_scale"], {"parts": {}, True: 0, False: 0})
        entry["parts"] |= dict.fromkeys(_part_of(name) for name in group["names"])
        entry[group["weight_decay"] > 0] += sum(p.numel() for p in group["params"])
    return [
        RateGroup(list(entry["parts"]), scale, entry[True], entry[False])
        for scale, entry in sorted(found.items())
    ]


def _part_of(name: str) -> str:
    """`backbone.blocks.3.attn.qkv.weight` is part of `backbone.blocks.3`, `head.bias` of `head`."""
    words = name.split(".")
    if words[0] != "backbone":
        return words[0]
    return ".".join(words[: 3 if words[1] == "blocks" else 2])


# ---------------------------------------------------------------- steps


def _steps(cfg: CfgNode) -> tuple[int | None, str]:
    """Steps of an epoch, or None and why not. Datasets that would have to be made first are left unmade."""
    for name in cfg.DATASETS.TRAIN:
        if name.startswith("mini_ava_") and name in dataset_names():
            file = datasets_root(cfg.DATASETS.ROOT) / "mini_ava" / f"{name.removeprefix('mini_ava_')}.yaml"
            if not file.exists():
                return None, f"{name} is made by its first use"
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return steps_per_epoch(cfg, build_train_dataset(cfg, model_class(cfg).task)), ""
    except UserError as error:
        return None, str(error)
    finally:
        logging.disable(level)
