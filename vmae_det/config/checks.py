"""Checks that one key cannot make alone, done before anything is built."""

from __future__ import annotations

import re
from typing import Any

from vmae_det.config.node import CfgNode
from vmae_det.utils.errors import ConfigError, did_you_mean

_CHOICES = {
    "MODEL.DEVICE": ("auto", "cpu", "cuda"),
    "MODEL.BACKBONE.POSITIONS": ("flat", "axes"),
    "MODEL.DECODER.MASK": ("none", "running_cell"),
    "MODEL.MASK.TYPE": ("tube", "random", "frame"),
    "MODEL.RECONSTRUCTION.LOSS": ("mse", "l1", "smooth_l1"),
    "MODEL.ROI_HEAD.LOSS": ("sum", "mean"),
    "INPUT.SAMPLING": ("dense", "segments"),
    "INPUT.TRAIN_CROP": ("multi_scale", "short_side", "resized"),
    "SOLVER.OPTIMIZER": ("adamw", "sgd"),
    "SOLVER.AMP": ("none", "bf16", "fp16"),
    "SOLVER.ON_BAD_LOSS": ("stop", "skip"),
    "SOLVER.PARALLEL": ("ddp", "fsdp"),
    "TEST.PROTOCOL": ("challenge", "slowfast"),
    "PERSON_DETECTOR.ONNX_LAYOUT": ("auto", "yolov5", "yolov8", "end_to_end"),
}

_AT_LEAST = {
    1: (
        "MODEL.BACKBONE.EMBED_DIM",
        "MODEL.BACKBONE.DEPTH",
        "MODEL.BACKBONE.NUM_HEADS",
        "MODEL.BACKBONE.PATCH_SIZE",
        "MODEL.BACKBONE.TUBELET_SIZE",
        "MODEL.DECODER.EMBED_DIM",
        "MODEL.DECODER.DEPTH",
        "MODEL.DECODER.NUM_HEADS",
        "MODEL.CLASSIFIER.NUM_CLASSES",
        "MODEL.ROI_HEAD.NUM_CLASSES",
        "MODEL.ROI_HEAD.RESOLUTION",
        "INPUT.NUM_FRAMES",
        "INPUT.SAMPLING_RATE",
        "INPUT.CROP_SIZE",
        "INPUT.TRAIN_SHORT_SIDE",
        "INPUT.TEST_SHORT_SIDE",
        "DATALOADER.CLIPS_PER_VIDEO",
        "DATALOADER.REPEATED_AUG",
        "SOLVER.BATCH_SIZE",
        "SOLVER.EPOCHS",
        "SOLVER.ACCUMULATE",
        "SOLVER.CHECKPOINT_PERIOD",
        "SOLVER.KEEP_CHECKPOINTS",
        "SOLVER.MAX_SKIPPED",
        "SOLVER.LOG_PERIOD",
        "TEST.BATCH_SIZE",
        "TEST.NUM_CLIPS",
        "TEST.NUM_CROPS",
        "PERSON_DETECTOR.MAX_PEOPLE",
        "PERSON_DETECTOR.BATCH_SIZE",
    ),
    0: (
        "MODEL.BACKBONE.MLP_RATIO",
        "MODEL.RECONSTRUCTION.NUM_FRAMES",
        "MODEL.RECONSTRUCTION.SAMPLING_RATE",
        "MODEL.ROI_HEAD.SAMPLING_RATIO",
        "INPUT.MIXUP",
        "INPUT.CUTMIX",
        "DATALOADER.CACHE_MB",
        "DATALOADER.NUM_WORKERS",
        "SOLVER.BASE_LR",
        "SOLVER.MIN_LR",
        "SOLVER.WARMUP_LR",
        "SOLVER.WARMUP_EPOCHS",
        "SOLVER.WEIGHT_DECAY",
        "SOLVER.CLIP_GRAD",
        "TEST.PERIOD",
        "PERSON_DETECTOR.SHORT_SIDE",
        "SEED",
    ),
}

_FRACTIONS = (
    "MODEL.BACKBONE.DROP_PATH",
    "MODEL.CLASSIFIER.DROPOUT",
    "MODEL.CLASSIFIER.LABEL_SMOOTHING",
    "MODEL.ROI_HEAD.DROPOUT",
    "INPUT.COLOR_JITTER",
    "SOLVER.EMA_DECAY",
)

# What timm's rand_augment_transform reads; of its own accord it passes over much that it cannot read.
_RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|mmax\d+|n[1-9]|p(0|1|0?\.\d+|1\.0)|mstd\d+(\.\d+)?|inc[01]|t(weights|3a|3aw)))*"
)


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value under a dotted key."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Raise ConfigError, naming the key, for a value out of range or keys that contradict each other."""
    for key, choices in _CHOICES.items():
        value = value_of(cfg, key)
        _require(value in choices, key, f"got '{value}'{did_you_mean(value, choices)}")
    for minimum, keys in _AT_LEAST.items():
        for key in keys:
            _require(
                value_of(cfg, key) >= minimum, key, f"must be at least {minimum}, got {value_of(cfg, key)}"
            )
    for key in _FRACTIONS:
        _require(0 <= value_of(cfg, key) < 1, key, f"must lie in [0, 1), got {value_of(cfg, key)}")
    for key in (
        "INPUT.FLIP",
        "INPUT.RANDOM_ERASING",
        "DATALOADER.MAX_BAD_FRACTION",
        "PERSON_DETECTOR.SCORE",
        "PERSON_DETECTOR.NMS_IOU",
    ):
        _require(0 <= value_of(cfg, key) <= 1, key, f"must lie in [0, 1], got {value_of(cfg, key)}")
    augment = cfg.INPUT.RAND_AUGMENT
    _require(
        not augment or _RAND_AUGMENT.fullmatch(augment),
        "INPUT.RAND_AUGMENT",
        f"got '{augment}', expected the form rand-m9-mstd0.5-inc1, with m, mmax (magnitude, whole), n "
        "(operations, 1 to 9), p (probability), mstd (deviation), inc (0 or 1), t (weights, 3a or 3aw)",
    )
    for key in ("MODEL.MASK.RATIO", "MODEL.DECODER.MASK_RATIO"):
        _require(0 < value_of(cfg, key) < 1, key, f"must lie in (0, 1), got {value_of(cfg, key)}")
    timeout = cfg.DATALOADER.TIMEOUT
    _require(timeout > 0, "DATALOADER.TIMEOUT", f"must be above 0, got {timeout}")
    decay = cfg.SOLVER.LAYER_DECAY
    _require(0 < decay <= 1, "SOLVER.LAYER_DECAY", f"must lie in (0, 1], got {decay}")
    factor = cfg.SOLVER.HEAD_LR_FACTOR
    _require(factor > 0, "SOLVER.HEAD_LR_FACTOR", f"must be above 0, got {factor}")
    for key, length in (
        ("MODEL.PIXEL_MEAN", 3),
        ("MODEL.PIXEL_STD", 3),
        ("MODEL.ROI_HEAD.TEST_BOX_SCALE", 2),
        ("INPUT.CROP_AREA", 2),
        ("INPUT.CROP_ASPECT", 2),
        ("SOLVER.BETAS", 2),
    ):
        value = value_of(cfg, key)
        _require(len(value) == length, key, f"takes {length} values, got {len(value)}: {value}")
    limit = cfg.SOLVER.MAX_LOSS
    _require(limit > 0, "SOLVER.MAX_LOSS", f"must be above 0, got {limit}")
    _check_shapes(cfg)
    _check_solver(cfg)
    _check_person_detector(cfg)


def _check_shapes(cfg: CfgNode) -> None:
    backbone, decoder = cfg.MODEL.BACKBONE, cfg.MODEL.DECODER
    crop, patch = cfg.INPUT.CROP_SIZE, backbone.PATCH_SIZE
    frames, tubelet = cfg.INPUT.NUM_FRAMES, backbone.TUBELET_SIZE
    _require(
        crop % patch == 0,
        "INPUT.CROP_SIZE",
        f"{crop} is not divisible by MODEL.BACKBONE.PATCH_SIZE {patch}; nearest that are: "
        f"{max(crop // patch, 1) * patch} and {(crop // patch + 1) * patch}",
    )
    _require(
        frames % tubelet == 0,
        "INPUT.NUM_FRAMES",
        f"{frames} is not divisible by MODEL.BACKBONE.TUBELET_SIZE {tubelet}",
    )
    for group, node in (("BACKBONE", backbone), ("DECODER", decoder)):
        _require(
            node.EMBED_DIM % node.NUM_HEADS == 0,
            f"MODEL.{group}.EMBED_DIM",
            f"{node.EMBED_DIM} is not divisible by MODEL.{group}.NUM_HEADS {node.NUM_HEADS}",
        )
        _require(
            node.EMBED_DIM % 2 == 0,
            f"MODEL.{group}.EMBED_DIM",
            f"must be even for sine-cosine positions, got {node.EMBED_DIM}",
        )
    if cfg.INPUT.TRAIN_CROP == "short_side":
        _require(
            crop <= cfg.INPUT.TRAIN_SHORT_SIDE,
            "INPUT.TRAIN_SHORT_SIDE",
            f"{cfg.INPUT.TRAIN_SHORT_SIDE} is smaller than INPUT.CROP_SIZE {crop}: no crop fits",
        )
    if cfg.MODEL.META_ARCHITECTURE == "VideoClassifier":
        _require(
            crop <= cfg.INPUT.TEST_SHORT_SIDE,
            "INPUT.TEST_SHORT_SIDE",
            f"{cfg.INPUT.TEST_SHORT_SIDE} is smaller than INPUT.CROP_SIZE {crop}: no crop fits",
        )
    if cfg.MODEL.META_ARCHITECTURE == "MaskedAutoencoder":
        positions = {"tube": (crop // patch) ** 2, "frame": frames // tubelet}.get(
            cfg.MODEL.MASK.TYPE, (crop // patch) ** 2 * (frames // tubelet)
        )
        masked = int(cfg.MODEL.MASK.RATIO * positions)
        _require(
            0 < masked < positions,
            "MODEL.MASK.RATIO",
            f"{cfg.MODEL.MASK.RATIO} of {positions} positions masks {masked}: nothing to "
            f"{'predict' if masked == 0 else 'see'}",
        )
        _check_target(cfg, frames // tubelet)


def _check_target(cfg: CfgNode, slices: int) -> None:
    key, frames = "MODEL.RECONSTRUCTION.NUM_FRAMES", cfg.MODEL.RECONSTRUCTION.NUM_FRAMES
    if frames != 1:
        _require(
            frames % slices == 0,
            key,
            f"{frames} is not divisible by the {slices} time slices of a clip (INPUT.NUM_FRAMES / "
            "MODEL.BACKBONE.TUBELET_SIZE), each of which predicts as many; nearest that are: "
            f"{max(frames // slices, 1) * slices} and {(frames // slices + 1) * slices}",
        )
    elif slices > 1:
        _require(
            cfg.MODEL.MASK.TYPE == "tube",
            key,
            f"1 predicts the masked tokens of one time slice, of which MODEL.MASK.TYPE {cfg.MODEL.MASK.TYPE} "
            "masks more in one clip than in another; set that to tube",
        )


def _check_solver(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    _require(
        not (solver.PARALLEL == "fsdp" and solver.AMP == "fp16"),
        "SOLVER.AMP",
        "fp16 scales losses, which SOLVER.PARALLEL fsdp does not share; set it to bf16 or none",
    )
    _require(
        solver.WARMUP_EPOCHS <= solver.EPOCHS,
        "SOLVER.WARMUP_EPOCHS",
        f"{solver.WARMUP_EPOCHS} is more than SOLVER.EPOCHS {solver.EPOCHS}",
    )
    _require(
        solver.BATCH_SIZE % solver.ACCUMULATE == 0,
        "SOLVER.BATCH_SIZE",
        f"{solver.BATCH_SIZE} is not divisible by SOLVER.ACCUMULATE {solver.ACCUMULATE}",
    )


def _check_person_detector(cfg: CfgNode) -> None:
    node = cfg.PERSON_DETECTOR
    _require(
        node.NAME == "onnx" or not node.WEIGHTS.lower().endswith(".onnx"),
        "PERSON_DETECTOR.NAME",
        f"must be onnx for {node.WEIGHTS}, got '{node.NAME}'",
    )


def _require(condition: bool, key: str, problem: str) -> None:
    if not condition:
        raise ConfigError(f"{key}: {problem}")
