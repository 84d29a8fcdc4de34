"""Check a config: the range of each key, then combinations of keys."""

from __future__ import annotations

from collections.abc import Iterator

from vmae_det.config.cfg_node import CfgNode, flatten, value_of
from vmae_det.config.defaults import KEYS
from vmae_det.config.ranges import AUTO
from vmae_det.config.size_bounds import MAX_TOKENS, tokens_per_clip
from vmae_det.utils.errors import ConfigError

# Keys that only some architectures use. Others would ignore them silently.
_USED_BY: dict[str, tuple[str, ...]] = {
    "DATALOADER.CLIPS_PER_VIDEO": ("MaskedAutoencoder", "MoCoV3"),
    **dict.fromkeys(
        (
            *("INPUT.SAMPLING", "INPUT.RAND_AUGMENT", "INPUT.RAND_AUGMENT_WHOLE_FRAME"),
            *("INPUT.RANDOM_ERASING", "INPUT.MIXUP", "INPUT.CUTMIX"),
        ),
        ("VideoClassifier",),
    ),
    **dict.fromkeys(
        (
            *("DATASETS.NEGATIVE_PERSONS", "MODEL.PERSON_HEAD.NAME"),
            *("TEST.PERSON_BOXES", "TEST.SHORT_SIDES", "TEST.FLIP"),
        ),
        ("ActionDetector",),
    ),
    "TEST.KNN_BANK": ("MoCoV3",),
}
# Others may use any key.
_ARCHITECTURES = ("MaskedAutoencoder", "MoCoV3", "VideoClassifier", "ActionDetector")


# The key of the number of classes, by the task of the model. Its value may be auto.
NUM_CLASSES_KEYS = {
    "classification": "MODEL.CLASSIFIER.NUM_CLASSES",
    "detection": "MODEL.ROI_HEAD.NUM_CLASSES",
}


def check_config(cfg: CfgNode) -> None:
    """Check all values and their combinations.

    Raises:
        ConfigError: a value is out of range, or two keys contradict each other. The message starts with a
            key.
    """
    values = dict(flatten(cfg))
    for key in (*KEYS, *values):
        if key not in KEYS or key not in values:
            raise ConfigError(f"{key}: {'missing' if key in KEYS else 'no such config key'}; see get_cfg()")
    for key, value in values.items():
        if value != KEYS[key].default:
            check_value(cfg, key)
    _check_shapes(cfg)
    _check_token_dropout(cfg)
    _check_compilation(cfg)
    _check_solver(cfg)
    weights, names = cfg.DATASETS.TRAIN_WEIGHTS, cfg.DATASETS.TRAIN
    _require(
        not (weights and names) or len(weights) == len(names),
        "DATASETS.TRAIN_WEIGHTS",
        f"has {len(weights)} weights, but DATASETS.TRAIN has {len(names)} datasets; set one for each, or ()",
    )
    _require(
        len(set(cfg.TEST.SHORT_SIDES)) == len(cfg.TEST.SHORT_SIDES),
        "TEST.SHORT_SIDES",
        f"{cfg.TEST.SHORT_SIDES} has a value twice",
    )
    _require(
        not cfg.TEST.PATIENCE or cfg.TEST.PERIOD > 0,
        "TEST.PATIENCE",
        f"{cfg.TEST.PATIENCE}, but TEST.PERIOD 0 evaluates only after training; set TEST.PERIOD to 1 or more",
    )
    _check_moco(cfg)
    _check_person_detector(cfg)
    _check_person_head(cfg)


def uses_model_persons(cfg: CfgNode) -> bool:
    """Return whether testing uses the person boxes of the model (TEST.PERSON_BOXES)."""
    return cfg.TEST.PERSON_BOXES == "model" or (
        cfg.TEST.PERSON_BOXES == "auto" and bool(cfg.MODEL.PERSON_HEAD.NAME)
    )


def detects_with_person_head(cfg: CfgNode) -> bool:
    """Return whether a model finds the people of a video itself (PERSON_DETECTOR.NAME)."""
    node = cfg.PERSON_DETECTOR
    return bool(cfg.MODEL.PERSON_HEAD.NAME) and node.NAME == "auto" and not node.WEIGHTS


def check_value(cfg: CfgNode, key: str) -> None:
    """Check the range of one key. Raises ConfigError."""
    try:
        KEYS[key].range.check(value_of(cfg, key), key)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def unused_keys(cfg: CfgNode) -> Iterator[str]:
    """Yield a message for each key that was set and that MODEL.META_ARCHITECTURE does not use."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    for key, users in _USED_BY.items():
        value = value_of(cfg, key)
        if architecture in _ARCHITECTURES and architecture not in users and value != KEYS[key].default:
            use = "uses" if len(users) == 1 else "use"
            yield f"{key}: {value} has no effect: only {' and '.join(users)} {use} it, not {architecture}"
    if architecture in ("MaskedAutoencoder", "MoCoV3") and cfg.SOLVER.CLASS_BALANCE != "none":
        yield f"SOLVER.CLASS_BALANCE: {cfg.SOLVER.CLASS_BALANCE} has no effect: {architecture} has no classes"
    head = cfg.MODEL.ROI_HEAD
    if head.HIDDEN_DIM and head.NUM_LAYERS == 1:
        yield f"MODEL.ROI_HEAD.HIDDEN_DIM: {head.HIDDEN_DIM} has no effect: MODEL.ROI_HEAD.NUM_LAYERS is 1"
    for key in ("ATTENTION_LAYERS", "ATTENTION_HEADS"):
        if head.NAME == "MaxPoolRoIHead" and head[key] != KEYS[f"MODEL.ROI_HEAD.{key}"].default:
            yield f"MODEL.ROI_HEAD.{key}: {head[key]} has no effect: {head.NAME} has no attention"
    person_head = cfg.MODEL.PERSON_HEAD
    for key in () if person_head.NAME else person_head:
        if person_head[key] != KEYS[f"MODEL.PERSON_HEAD.{key}"].default:
            yield f"MODEL.PERSON_HEAD.{key}: {person_head[key]} has no effect: there is no person head"
    if cfg.MODEL.BACKBONE.TOKEN_DROP_BLOCKS and cfg.MODEL.BACKBONE.TOKEN_KEEP_RATE == 1:
        yield (
            f"MODEL.BACKBONE.TOKEN_DROP_BLOCKS: {cfg.MODEL.BACKBONE.TOKEN_DROP_BLOCKS} has no effect: "
            "MODEL.BACKBONE.TOKEN_KEEP_RATE is 1"
        )
    if cfg.TEST.PATIENCE and not cfg.DATASETS.TEST:
        yield f"TEST.PATIENCE: {cfg.TEST.PATIENCE} has no effect: DATASETS.TEST is empty"


def num_classes(cfg: CfgNode, group: str) -> int:
    """Return MODEL.`group`.NUM_CLASSES.

    Raises:
        ConfigError: it is auto (see `engine.num_classes.resolve_num_classes`).
    """
    number = cfg.MODEL[group].NUM_CLASSES
    _require(
        number != AUTO,
        f"MODEL.{group}.NUM_CLASSES",
        "auto is not resolved; call vmae_det.engine.num_classes.resolve_num_classes(cfg), or set a number",
    )
    return number


def _check_shapes(cfg: CfgNode) -> None:
    backbone, decoder = cfg.MODEL.BACKBONE, cfg.MODEL.DECODER
    crop, patch = cfg.INPUT.CROP_SIZE, backbone.PATCH_SIZE
    frames, tubelet = cfg.INPUT.NUM_FRAMES, backbone.TUBELET_SIZE
    _require(
        int(backbone.EMBED_DIM * backbone.MLP_RATIO) > 0,
        "MODEL.BACKBONE.MLP_RATIO",
        f"{backbone.MLP_RATIO} of MODEL.BACKBONE.EMBED_DIM {backbone.EMBED_DIM} leaves no hidden layer",
    )
    _require(
        crop % patch == 0,
        "INPUT.CROP_SIZE",
        f"{crop} is not divisible by MODEL.BACKBONE.PATCH_SIZE {patch}; the nearest valid sizes are "
        f"{max(crop // patch, 1) * patch} and {(max(crop // patch, 1) + 1) * patch}",
    )
    _require(
        frames % tubelet == 0,
        "INPUT.NUM_FRAMES",
        f"{frames} is not divisible by MODEL.BACKBONE.TUBELET_SIZE {tubelet}",
    )
    tokens = tokens_per_clip(cfg)
    _require(
        tokens <= MAX_TOKENS,
        "INPUT.CROP_SIZE",
        f"{crop} with INPUT.NUM_FRAMES {frames} and MODEL.BACKBONE.PATCH_SIZE {patch} makes {tokens} tokens "
        f"per clip, more than {MAX_TOKENS}",
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
    if cfg.MODEL.META_ARCHITECTURE in ("VideoClassifier", "MoCoV3"):
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
            "MODEL.BACKBONE.TUBELET_SIZE); the nearest valid numbers are "
            f"{max(frames // slices, 1) * slices} and {(frames // slices + 1) * slices}",
        )
    elif slices > 1:
        _require(
            cfg.MODEL.MASK.TYPE == "tube",
            key,
            f"1 predicts the masked tokens of one time slice, and their number varies with MODEL.MASK.TYPE "
            f"{cfg.MODEL.MASK.TYPE}; set that to tube",
        )


def _check_token_dropout(cfg: CfgNode) -> None:
    node = cfg.MODEL.BACKBONE
    blocks, key = list(node.TOKEN_DROP_BLOCKS), "MODEL.BACKBONE.TOKEN_DROP_BLOCKS"
    _require(blocks == sorted(set(blocks)), key, f"{blocks} must be ascending, each block once")
    _require(
        not blocks or blocks[-1] <= node.DEPTH,
        key,
        f"has block {max(blocks, default=0)}, but MODEL.BACKBONE.DEPTH is {node.DEPTH}",
    )
    _require(
        node.TOKEN_KEEP_RATE == 1 or cfg.MODEL.META_ARCHITECTURE != "MaskedAutoencoder",
        "MODEL.BACKBONE.TOKEN_KEEP_RATE",
        f"{node.TOKEN_KEEP_RATE}, but MaskedAutoencoder encodes only visible tokens and drops none of them; "
        "set it to 1.0",
    )


def _check_compilation(cfg: CfgNode) -> None:
    model, solver = cfg.MODEL, cfg.SOLVER
    uses_stack = model.COMPILE and model.COMPILE_SCOPE == "stack"
    _require(
        not (uses_stack and solver.PARALLEL == "fsdp"),
        "MODEL.COMPILE_SCOPE",
        "stack, but SOLVER.PARALLEL fsdp unshards one block at a time; set it to block",
    )
    _require(
        uses_stack or not model.CUDA_GRAPHS,
        "MODEL.CUDA_GRAPHS",
        "True, but only MODEL.COMPILE True with MODEL.COMPILE_SCOPE stack makes CUDA graphs",
    )
    _require(
        solver.ACCUMULATE == 1 or not model.CUDA_GRAPHS,
        "MODEL.CUDA_GRAPHS",
        f"True, but SOLVER.ACCUMULATE {solver.ACCUMULATE} adds gradients that a CUDA graph overwrites; set "
        "it to False, or SOLVER.ACCUMULATE to 1",
    )


def _check_solver(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    _require(
        not (solver.PARALLEL == "fsdp" and solver.AMP == "fp16"),
        "SOLVER.AMP",
        "fp16 needs loss scaling, which SOLVER.PARALLEL fsdp does not support; set it to bf16 or none",
    )
    _require(
        solver.WARMUP_EPOCHS <= solver.EPOCHS,
        "SOLVER.WARMUP_EPOCHS",
        f"{solver.WARMUP_EPOCHS} is more than SOLVER.EPOCHS {solver.EPOCHS}",
    )
    for name in ("MIN_LR", "WARMUP_LR"):
        _require(
            solver[name] <= solver.BASE_LR,
            f"SOLVER.{name}",
            f"{solver[name]} is more than SOLVER.BASE_LR {solver.BASE_LR}",
        )
    _require(
        solver.BATCH_SIZE % solver.ACCUMULATE == 0,
        "SOLVER.BATCH_SIZE",
        f"{solver.BATCH_SIZE} is not divisible by SOLVER.ACCUMULATE {solver.ACCUMULATE}",
    )


def _check_moco(cfg: CfgNode) -> None:
    clips = cfg.SOLVER.BATCH_SIZE * cfg.DATALOADER.REPEATED_AUG // cfg.SOLVER.ACCUMULATE
    _require(
        cfg.MODEL.META_ARCHITECTURE != "MoCoV3" or clips > 1,
        "SOLVER.BATCH_SIZE",
        f"{cfg.SOLVER.BATCH_SIZE} with SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} makes passes of one clip, "
        "but MoCoV3 compares each clip with the others of its pass",
    )


def _check_person_detector(cfg: CfgNode) -> None:
    node = cfg.PERSON_DETECTOR
    _require(
        node.NAME == "onnx" or not node.WEIGHTS.lower().endswith(".onnx"),
        "PERSON_DETECTOR.NAME",
        f"must be onnx for {node.WEIGHTS}, got '{node.NAME}'",
    )


def _check_person_head(cfg: CfgNode) -> None:
    node, depth = cfg.MODEL.PERSON_HEAD, cfg.MODEL.BACKBONE.DEPTH
    default = KEYS["MODEL.PERSON_HEAD.SCALES"].default
    count = len(node.SCALES)
    _require(
        any(tuple(node.SCALES) == default[first : first + count] for first in range(len(default))),
        "MODEL.PERSON_HEAD.SCALES",
        f"must be successive values of {default}, got {node.SCALES}",
    )
    _require(
        len(node.BLOCKS) in (0, count),
        "MODEL.PERSON_HEAD.BLOCKS",
        f"must have a value for each of the {count} maps (MODEL.PERSON_HEAD.SCALES), or none for blocks that "
        f"are evenly spread, got {node.BLOCKS}",
    )
    _require(
        max(node.BLOCKS, default=1) <= depth,
        "MODEL.PERSON_HEAD.BLOCKS",
        f"{node.BLOCKS} has a block after the last of the {depth} blocks of MODEL.BACKBONE.DEPTH",
    )
    _require(
        bool(node.NAME) or not node.TRAIN_ALONE,
        "MODEL.PERSON_HEAD.TRAIN_ALONE",
        "True, but there is no person head; set MODEL.PERSON_HEAD.NAME to FcosPersonHead",
    )
    _require(
        bool(node.NAME) or cfg.TEST.PERSON_BOXES != "model",
        "TEST.PERSON_BOXES",
        "model, but the model has no person head; set MODEL.PERSON_HEAD.NAME to FcosPersonHead, or "
        "TEST.PERSON_BOXES to dataset",
    )


def _require(condition: bool, key: str, problem: str) -> None:
    if not condition:
        raise ConfigError(f"{key}: {problem}")
