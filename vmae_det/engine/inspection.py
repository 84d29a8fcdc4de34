"""Inspect a config without data or GPU: parameters, FLOPs, memory, learning rates, steps per epoch.

Models are built on meta or fake tensors, so that large ones need no more memory than small ones.
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
from vmae_det.data.catalog import is_generated_later
from vmae_det.data.loader import build_train_dataset, describe_mix, steps_per_epoch
from vmae_det.data.test_time_augmentation import has_several_views
from vmae_det.data.transforms import detection_short_sides, pixel_rounding, resized_size
from vmae_det.engine.expected_loss import ExpectedLoss, expected_loss
from vmae_det.engine.trainer import AMP_TYPES
from vmae_det.modeling import build_model, model_class
from vmae_det.modeling.backbones.token_dropout import count_kept, default_drop_blocks, kept_share
from vmae_det.solver import build_schedule, parameter_groups
from vmae_det.utils.errors import ConfigError, UserError

FLOAT_BYTES = 4  # of a weight, its gradient, and each of its optimizer states


@dataclass(frozen=True)
class Tokens:
    """Numbers of tokens of a clip.

    Attributes:
        grid: (t, h, w) of all tokens.
        encoded: input of the backbone: all tokens, except in pre-training.
        decoded: input of the decoder; 0 without a decoder.
        predicted: tokens that the decoder predicts.
        kept: tokens of the grid that are left after token dropout; 0 without it.
    """

    grid: tuple[int, int, int]
    encoded: int
    decoded: int = 0
    predicted: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Memory:
    """Memory of training in bytes per process, without temporary buffers of kernels.

    Attributes:
        weights: of all parameters.
        gradients: of the trained ones.
        optimizer: two states per trained parameter for AdamW, one for SGD with momentum.
        ema: of the EMA weights, if enabled.
        casts: copies of weights in the dtype of mixed precision.
        clip: activations of one clip for the backward pass, without attention scores and weights, which fused
            kernels recompute.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    casts: int
    clip: int

    def total(self, clips: int) -> int:
        """Return the bytes with `clips` clips in a forward pass."""
        fixed = self.weights + self.gradients + self.optimizer + self.ema + self.casts
        return fixed + clips * self.clip


@dataclass(frozen=True)
class RateGroup:
    """Parameters with the same learning rate: `lr_scale` times that of the schedule."""

    parts: list[str]
    lr_scale: float
    decaying: int
    not_decaying: int


@dataclass(frozen=True)
class Inspection:
    """Result of `inspect_config`.

    Attributes:
        parameters: numbers of parameters by top-level module.
        trainable: number of trained parameters.
        flops: multiply-adds of one clip, forward.
        test_flops: as of `count_test_flops`.
        schedule: learning rate by progress in [0, 1).
        steps: optimizer steps per epoch; None if the training set is not available.
        no_steps: why `steps` is None.
        mix: a line for each of several training sets.
        loss: as of `expected_loss`.
    """

    tokens: Tokens
    parameters: dict[str, int]
    trainable: int
    flops: float
    test_flops: float | None
    memory: Memory
    rates: list[RateGroup]
    schedule: Callable[[float], float] = field(repr=False)
    steps: int | None
    no_steps: str
    mix: list[str]
    loss: ExpectedLoss | None

    @property
    def total_parameters(self) -> int:
        """Total number of parameters."""
        return sum(self.parameters.values())


def inspect_config(cfg: CfgNode) -> Inspection:
    """Inspect a config before a run.

    Raises:
        ConfigError: the task of MODEL.META_ARCHITECTURE is not supported.
    """
    model = empty_model(cfg)
    tokens = count_tokens(cfg)
    steps, reason, mix = _training_set(cfg)
    return Inspection(
        tokens=tokens,
        parameters={name: count(child) for name, child in _top_level_modules(model).items() if count(child)},
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=count_flops(cfg, tokens),
        test_flops=count_test_flops(cfg, tokens),
        memory=estimate_memory(cfg, tokens),
        rates=rate_groups(cfg, model),
        schedule=build_schedule(cfg),
        steps=steps,
        no_steps=reason,
        mix=mix,
        loss=expected_loss(cfg),
    )


def empty_model(cfg: CfgNode) -> nn.Module:
    """Build the model on the meta device: parameters have a shape but no memory."""
    with torch.device("meta"):
        return build_model(cfg)


def count(module: nn.Module | nn.Parameter) -> int:
    """Return the number of parameters of a module, or of elements of one parameter."""
    if isinstance(module, nn.Parameter):
        return module.numel()
    return sum(p.numel() for p in module.parameters())


def _top_level_modules(model: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    return dict(model.named_children()) | dict(model.named_parameters(recurse=False))


# ---------------------------------------------------------------- one clip through the model


class _ClassifierProbe(nn.Module):
    """A classifier, from normalized video to logits."""

    def __init__(self, model: nn.Module, cfg: CfgNode, tokens: Tokens) -> None:
        super().__init__()
        self.model = model
        self.shape = (3, cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE, cfg.INPUT.CROP_SIZE)

    def inputs(self, clips: int, device: str) -> tuple[torch.Tensor, ...]:
        """Return arguments of `forward` for `clips` clips."""
        return (torch.zeros(clips, *self.shape, device=device),)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.model.logits(video)


class _DetectorProbe(_ClassifierProbe):
    """A detector, with one person per clip. A person head is included."""

    def inputs(self, clips: int, device: str) -> tuple[torch.Tensor, ...]:
        side = self.shape[-1]
        boxes = [torch.tensor([[0.0, 0.0, side, side]], device=device) for _ in range(clips)]
        return (*super().inputs(clips, device), *boxes)

    def forward(self, video: torch.Tensor, *boxes: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if getattr(self.model, "person_head", None) is None:
            return self.model.logits(video, list(boxes))
        tokens, persons = self.model.tokens_and_persons(video)
        return self.model.head_logits(tokens, list(boxes)), *persons


class _AutoencoderProbe(nn.Module):
    """An autoencoder, from visible cubes to predicted values, without masking."""

    def __init__(self, model: nn.Module, cfg: CfgNode, tokens: Tokens) -> None:
        super().__init__()
        self.model = model
        self.tokens = tokens
        side = cfg.INPUT.CROP_SIZE
        video = torch.zeros(1, 3, cfg.INPUT.NUM_FRAMES, side, side, device="meta")
        self.values = model.backbone.cubes(video).shape[2]

    def inputs(self, clips: int, device: str) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(clips, self.tokens.encoded, self.values, device=device),)

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        model, tokens = self.model, self.tokens
        positions = model.backbone.token_positions(tokens.grid)
        x = model.backbone.encode(cubes, positions[: tokens.encoded])
        x = model.encoder_to_decoder(x)
        mask_tokens = model.mask_token.expand(len(cubes), tokens.decoded - tokens.encoded, -1).to(x.dtype)
        return model.decoder(torch.cat([x, mask_tokens], dim=1), tokens.predicted)


class _ContrastiveProbe(nn.Module):
    """MoCo v3, from the two views of each clip to queries and keys."""

    def __init__(self, model: nn.Module, cfg: CfgNode, tokens: Tokens) -> None:
        super().__init__()
        self.model = model
        self.shape = (3, cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE, cfg.INPUT.CROP_SIZE)

    def train(self, mode: bool = True) -> _ContrastiveProbe:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()  # the statistics of one clip are not defined
        return self

    def inputs(self, clips: int, device: str) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(2 * clips, *self.shape, device=device),)

    def forward(self, views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        queries, keys = self.model.queries_and_keys(views)
        return *queries, *keys


_PROBES = {
    "classification": _ClassifierProbe,
    "detection": _DetectorProbe,
    "pretraining": _AutoencoderProbe,
    "contrastive": _ContrastiveProbe,
}


def _probe(cfg: CfgNode, tokens: Tokens) -> nn.Module:
    task = model_class(cfg).task
    if task not in _PROBES:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE} has the task '{task}', but inspect "
            f"supports {', '.join(_PROBES)}"
        )
    return _PROBES[task](empty_model(cfg), cfg, tokens)


def count_tokens(cfg: CfgNode) -> Tokens:
    """Count the tokens of a training clip. For pre-training, run a narrow and shallow model."""
    node = cfg.MODEL.BACKBONE
    side = cfg.INPUT.CROP_SIZE // node.PATCH_SIZE
    grid = (cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE, side, side)
    if model_class(cfg).task != "pretraining":
        return Tokens(grid, encoded=math.prod(grid), kept=_count_kept(node, grid))
    small = cfg.clone()
    small.defrost()
    for part in (small.MODEL.BACKBONE, small.MODEL.DECODER):
        part.EMBED_DIM, part.DEPTH, part.NUM_HEADS = 6, 1, 1
    model = build_model(small).train()
    inputs: dict[str, Any] = {}
    encode = model.backbone.encode

    def record(cubes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        inputs.update(encoded=cubes)
        return encode(cubes, positions)

    model.backbone.encode = record
    model.decoder.register_forward_pre_hook(lambda _, args: inputs.update(decoded=args[0]))
    model.decoder.register_forward_hook(lambda _, args, result: inputs.update(predicted=result))
    frames = {"video": cfg.INPUT.NUM_FRAMES, "target": cfg.MODEL.RECONSTRUCTION.NUM_FRAMES}
    side = cfg.INPUT.CROP_SIZE
    clips = {
        name: torch.zeros(1, 3, number, side, side, dtype=torch.uint8)
        for name, number in frames.items()
        if number
    }
    with torch.no_grad():
        model(clips | {"seed": torch.zeros(1, dtype=torch.int64)})
    return Tokens(grid, **{name: tensor.shape[1] for name, tensor in inputs.items()})


def _count_kept(node: CfgNode, grid: tuple[int, int, int]) -> int:
    """Return the number of tokens that token dropout leaves, or 0 if MODEL.BACKBONE, `node`, has none."""
    if node.TOKEN_KEEP_RATE == 1:
        return 0
    drops = node.TOKEN_DROP_BLOCKS or default_drop_blocks(node.DEPTH)
    return count_kept(grid, kept_share(node.TOKEN_KEEP_RATE, len(drops)))


def _count_attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of both GEMMs of attention: queries (..., M, C), keys and values (..., N, C)."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _replace_convolutions(model: nn.Module) -> list[int]:
    """Make the convolutions of a model return zeros, because torch cannot trace them on the meta device.

    Returns:
        A list to which each forward pass of a convolution appends its multiply-adds.
    """
    flops: list[int] = []

    def replace(conv: nn.Module) -> None:
        filter_size = conv.weight[0].numel()

        def forward(x: torch.Tensor) -> torch.Tensor:
            sizes = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation)
            sides = [
                (int(n) + 2 * pad - step * (k - 1) - 1) // stride + 1 for n, k, stride, pad, step in sizes
            ]
            flops.append(int(x.shape[0]) * conv.out_channels * math.prod(sides) * filter_size)
            return x.new_zeros(int(x.shape[0]), conv.out_channels, *sides)

        conv.forward = forward

    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and not isinstance(module.padding, str):
            replace(module)
    return flops


def count_flops(cfg: CfgNode, tokens: Tokens, size: tuple[int, int] | None = None) -> float:
    """Return the multiply-adds of one clip in a forward pass without the loss; for a detector, with one
    person.

    fvcore counts linear maps and norms, but not element-wise operations.

    Args:
        size: height and width of the clip, divisible by the size of a patch; None: that of training. Not for
            pre-training.
    """
    probe = _probe(cfg, tokens).eval()
    if size is not None:
        probe.shape = (*probe.shape[:2], *size)
    convolution_flops = _replace_convolutions(probe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about the tracer that fvcore uses
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(probe, probe.inputs(1, "meta"))
        for name in ("aten::scaled_dot_product_attention", "vmae_det::gemm_attention_received"):
            analysis.set_op_handle(name, _count_attention_flops)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        return analysis.total() + sum(convolution_flops)


def count_test_flops(cfg: CfgNode, tokens: Tokens) -> float | None:
    """Return the multiply-adds of all views of a keyframe of a 16:9 video.

    It is None without test-time augmentation (see `data.test_time_augmentation`).
    """
    if not has_several_views(cfg):
        return None
    patch, total = cfg.MODEL.BACKBONE.PATCH_SIZE, 0.0
    for side in detection_short_sides(cfg):
        frame = resized_size(9, 16, side, pixel_rounding(cfg.INPUT))
        total += count_flops(cfg, tokens, tuple(pixels + -pixels % patch for pixels in frame))
    return total * (1 + cfg.TEST.FLIP)


# ---------------------------------------------------------------- memory


def estimate_memory(cfg: CfgNode, tokens: Tokens) -> Memory:
    """Estimate the memory of training. Activations are those that autograd saves in a forward pass."""
    one, two = (_saved_bytes(cfg, tokens, clips) for clips in (1, 2))
    model = empty_model(cfg)
    weights = FLOAT_BYTES * count(model)
    trained = FLOAT_BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)
    states = 2 if cfg.SOLVER.OPTIMIZER == "adamw" else int(cfg.SOLVER.MOMENTUM > 0)
    return Memory(
        weights=weights,
        gradients=trained,
        optimizer=states * trained,
        ema=weights if cfg.SOLVER.EMA_DECAY else 0,
        casts=max(2 * one - two, 0),
        clip=two - one,
    )


def _saved_bytes(cfg: CfgNode, tokens: Tokens, clips: int) -> int:
    """Bytes of the tensors, except parameters, that autograd saves for the backward pass of `clips` clips."""
    probe = _probe(cfg, tokens).train()
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    amp = AMP_TYPES[cfg.SOLVER.AMP]
    with FakeTensorMode(allow_non_fake_inputs=True):
        probe.to_empty(device="cpu")
        inputs = probe.inputs(clips, "cpu")
        parameters = {tensor.untyped_storage()._cdata for tensor in [*probe.parameters(), *probe.buffers()]}
        with (
            torch.autocast("cpu", amp, enabled=amp is not None),
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        ):
            result = probe(*inputs)
        del result
    return sum(storage.nbytes() for key, storage in saved.items() if key not in parameters)


# ---------------------------------------------------------------- rates


def rate_groups(cfg: CfgNode, model: nn.Module) -> list[RateGroup]:
    """Return the parameters grouped by learning rate, lowest first."""
    solver = cfg.SOLVER
    rates: dict[float, dict[str, Any]] = {}
    for group in parameter_groups(model, solver.WEIGHT_DECAY, solver.LAYER_DECAY, solver.HEAD_LR_FACTOR):
        entry = rates.setdefault(group["lr_scale"], {"parts": {}, True: 0, False: 0})
        entry["parts"] |= dict.fromkeys(_module_of(name) for name in group["names"])
        entry[group["weight_decay"] > 0] += sum(p.numel() for p in group["params"])
    return [
        RateGroup(list(entry["parts"]), scale, entry[True], entry[False])
        for scale, entry in sorted(rates.items())
    ]


def _module_of(name: str) -> str:
    """Return the block or module of a parameter, such as `backbone.blocks.3` or `head`."""
    words = name.split(".")
    if words[0] != "backbone":
        return words[0]
    return ".".join(words[: 3 if words[1] == "blocks" else 2])


# ---------------------------------------------------------------- steps


def _training_set(cfg: CfgNode) -> tuple[int | None, str, list[str]]:
    """Return the steps per epoch, or None and the reason; and the mix of several training sets.

    Built-in datasets are not generated for this.
    """
    for name in cfg.DATASETS.TRAIN:
        if is_generated_later(name, cfg.DATASETS.ROOT):
            return None, f"{name} is generated on first use", []
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        dataset = build_train_dataset(cfg, model_class(cfg).task)
        return steps_per_epoch(cfg, dataset), "", describe_mix(cfg, dataset)
    except UserError as error:
        return None, str(error), []
    finally:
        logging.disable(level)
