"""Choose the network and the initial weights of `vmae-det train --data`: a recipe of the model zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vmae_det import model_zoo
from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.loading import config_keys_from_shapes, read_weights
from vmae_det.checkpoint.locate import locate
from vmae_det.checkpoint.stored_config import stored_config
from vmae_det.config import CfgNode
from vmae_det.config.cfg_node import value_of
from vmae_det.engine.auto_choices import Choice, Choices
from vmae_det.modeling import model_class
from vmae_det.utils.downloads import DownloadError, check_reachable
from vmae_det.utils.errors import UserError, WeightsError, did_you_mean

TASKS = {"videos": "pretraining", "classification": "classification", "detection": "detection"}
SIZES = {"small": 384, "base": 768, "large": 1024, "huge": 1280}  # dimension of a token
HIERA_SIZES = {"base": 768, "base_plus": 896, "large": 1152, "huge": 2048}
TINY = "tiny"  # the backbone of the MiniAVA configs
RECIPES = {
    "pretraining": ("MaskedAutoencoder", "Kinetics/vit_{}_16x4_pretrain.yaml", "MiniAVA/pretrain.yaml"),
    "classification": ("VideoClassifier", "Kinetics/vit_{}_16x4_finetune.yaml", "MiniAVA/finetune.yaml"),
    "detection": ("ActionDetector", "AVA/vit_{}_16x4_from_kinetics.yaml", "MiniAVA/detect.yaml"),
}
# Keys of the network that weights determine.
NETWORK_KEYS = (
    *(f"MODEL.BACKBONE.{key}" for key in ("NAME", "EMBED_DIM", "DEPTH", "NUM_HEADS", "MLP_RATIO")),
    *(f"MODEL.BACKBONE.{key}" for key in ("PATCH_SIZE", "TUBELET_SIZE", "POSITIONS", "CLASS_TOKEN")),
    "MODEL.BACKBONE.STAGES",
    *("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.NUM_FRAMES", "INPUT.CROP_SIZE"),
)
DECODER_KEYS = tuple(f"MODEL.DECODER.{key}" for key in ("EMBED_DIM", "DEPTH", "NUM_HEADS"))


def choose_network(
    choices: Choices, model: str, weights: str, given: CfgNode, base: Callable[[CfgNode], None]
) -> None:
    """Choose recipe, network and initial weights.

    Args:
        model, weights: see `choose_config`.
        given: config with the user's keys.
        base: merges these keys.
    """
    given_weights = given.MODEL.WEIGHTS or given.MODEL.BACKBONE.CHECKPOINT
    if weights and given_weights:
        raise UserError(f"--weights: {weights}, but the config names {given_weights}; give one of them")
    weights = weights or given_weights
    architecture, _, tiny = RECIPES[choices.task]
    stored = network_of(weights) if weights else {}
    if not (model or weights) and "MODEL.BACKBONE.EMBED_DIM" in choices.given_keys:
        size = recipe_size(given.MODEL.BACKBONE.EMBED_DIM)
        recipe, why = (RECIPES[choices.task][1].format(size) if size else tiny), "fits the given backbone"
    else:
        recipe, weights, why = choose_recipe(choices.task, model, weights, stored, choices.warnings)
    choices.cfg.merge_from_file(model_zoo.get_config_file(recipe))
    is_for_weights = weights == choices.cfg.MODEL.BACKBONE.CHECKPOINT
    for key in ("MODEL.WEIGHTS", "MODEL.BACKBONE.CHECKPOINT"):
        choices.cfg.merge_from_list([key, ""])
    sides = ("INPUT.TRAIN_SHORT_SIDE", "INPUT.TEST_SHORT_SIDE")
    choices.side_ratios = {key: value_of(choices.cfg, key) / choices.cfg.INPUT.CROP_SIZE for key in sides}
    if is_for_weights:
        stored = {}
    elif weights and not stored:
        stored = network_of(weights)
    recipe_frames = choices.cfg.INPUT.NUM_FRAMES
    is_autoencoder = stored.get("MODEL.META_ARCHITECTURE") == "MaskedAutoencoder"
    resumes_decoder = choices.task == "pretraining" and is_autoencoder
    for key in (*NETWORK_KEYS, *(DECODER_KEYS if resumes_decoder else ())):
        if key in stored:
            choices.cfg.merge_from_list([key, stored[key]])
    node = choices.cfg.INPUT  # clips keep the length of the recipe
    node.SAMPLING_RATE = max(round(node.SAMPLING_RATE * recipe_frames / node.NUM_FRAMES), 1)
    base(choices.cfg)
    choices.is_tiny = recipe == tiny
    choices.recipe_crop = choices.cfg.INPUT.CROP_SIZE
    spec = choices.spec
    choices.set("MODEL.META_ARCHITECTURE", architecture, f"{spec.name} is of type {spec.type}")
    node = choices.cfg.MODEL.BACKBONE
    network = f"{node.DEPTH} blocks of dimension {node.EMBED_DIM}"
    choices.listed.insert(0, Choice("(recipe)", recipe, f"{why}: {network}"))
    key = "MODEL.WEIGHTS" if resumes_decoder or given.MODEL.WEIGHTS else "MODEL.BACKBONE.CHECKPOINT"
    choices.set(key, weights, "initial weights" if weights else "none: random initial weights")


def choose_recipe(
    task: str, model: str, weights: str, stored: dict[str, Any], warnings: list[str]
) -> tuple[str, str, str]:
    """Return the name of a config of the model zoo, the weights, and the reason.

    Args:
        task: of the model.
        model: value of --model; "" chooses.
        weights: value of --weights; "" chooses published weights.
        stored: what `network_of` returns for `weights`.
        warnings: a warning is appended if there are no weights.

    Raises:
        UserError: `model` is unknown, or is for another task.
        WeightsError: the published weights of `model` are not available.
    """
    _, recipe, tiny = RECIPES[task]
    if model == TINY:
        return tiny, weights, "--model tiny"
    if model in model_zoo.WEIGHTS:
        if weights:
            raise UserError(f"--model: {model} names weights, so it cannot be combined with --weights")
        node = model_zoo.get_config(model_zoo.get_weights(model).config).MODEL.BACKBONE
        return _recipe_of(task, node.NAME, node.EMBED_DIM, "base"), _available(model), f"--model {model}"
    if model.endswith((".yaml", ".yml")):
        cfg = model_zoo.get_config(model)
        if model_class(cfg).task != task:
            raise UserError(f"--model: {model} is for {model_class(cfg).task}, but --data is for {task}")
        size, start = size_of(cfg.MODEL.BACKBONE.EMBED_DIM), cfg.MODEL.BACKBONE.CHECKPOINT
        if start in model_zoo.WEIGHTS:
            return model, weights or _available(start), f"--model {model}"
        return model, weights or (_published(task, size, warnings) if size else ""), f"--model {model}"
    if model and model not in SIZES:
        known = (TINY, *SIZES, *model_zoo.WEIGHTS)
        raise UserError(f"--model: no size, weights or config is named '{model}'{did_you_mean(model, known)}")
    if model:
        return recipe.format(model), weights or _published(task, model, warnings), f"--model {model}"
    if weights:
        name, width = (stored.get(f"MODEL.BACKBONE.{key}") for key in ("NAME", "EMBED_DIM"))
        return _recipe_of(task, name, width), weights, f"fits {weights}"
    return _default_recipe(task, recipe, tiny, warnings)


def _recipe_of(task: str, backbone: str | None, width: int | None, default: str = "") -> str:
    """Return the recipe of a network, given the name of its backbone and the dimension of its tokens.

    Args:
        default: size if there is no recipe for the dimension; "" for the recipe of the tiny network.
    """
    _, recipe, tiny = RECIPES[task]
    if backbone == "Hiera" and task != "pretraining":
        recipe = recipe.replace("/vit_", "/hiera_")
        size = next((size for size, dim in HIERA_SIZES.items() if dim == width), default)
    else:
        size = recipe_size(width or 0) or default
    return recipe.format(size) if size else tiny


def _published(task: str, size: str, warnings: list[str], patient: bool = True) -> str:
    """Return the published weights of a size; "" with a warning if there are none."""
    name = f"videomae-{size}" + ("" if task == "pretraining" else "-finetuned-kinetics")
    if name in model_zoo.WEIGHTS:
        return _available(name, patient)
    warnings.append(f"--model {size}: no published weights for {task}; training starts from random ones")
    return ""


def _default_recipe(task: str, recipe: str, tiny: str, warnings: list[str]) -> tuple[str, str, str]:
    if task == "pretraining":
        if torch.cuda.is_available():
            return recipe.format("small"), "", "pre-training on a GPU"
        return tiny, "", "pre-training on a CPU"
    try:
        weights = _published(task, "small", warnings, patient=False)
        return recipe.format("small"), weights, "the smallest published network"
    except WeightsError as error:
        warnings.append(
            f"published weights are not available, so a tiny network starts from random ones: {error}. "
            "Pre-trained weights are much better"
        )
        return tiny, "", "published weights are not available"


def size_of(width: int) -> str:
    """Return the size whose tokens have a dimension; "" if there is none."""
    return next((size for size, dim in SIZES.items() if dim == width), "")


def recipe_size(width: int) -> str:
    """Return the size whose recipe fits tokens of a dimension: the largest for larger ones; "" if none."""
    return size_of(width) or (list(SIZES)[-1] if width > max(SIZES.values()) else "")


def _available(name: str, patient: bool = True) -> str:
    """Return the name of published weights after downloading them, unless they are in the cache.

    Args:
        patient: whether to retry for some time if there is no connection.

    Raises:
        WeightsError: they are not available; names the remedy.
    """
    try:
        if not patient:
            check_reachable(model_zoo.get_weights(name).url)
        locate(name)
    except (WeightsError, DownloadError) as error:
        raise WeightsError(f"{error}; give a file with --weights, or --model tiny") from None
    return name


def network_of(weights: str) -> dict[str, Any]:
    """Return the config keys, with their values, of the network that weights belong to."""
    content = read_checkpoint(weights)
    _, renamed = read_weights(content, weights)
    shapes = config_keys_from_shapes(renamed.weights)
    stored = stored_config(content, weights)
    if stored is not None:
        keys = ("MODEL.META_ARCHITECTURE", *NETWORK_KEYS, *DECODER_KEYS)
        return {key: value_of(stored, key) for key in keys} | shapes
    if renamed.format.backbone:
        shapes["MODEL.BACKBONE.NAME"] = renamed.format.backbone
    heads = renamed.format.heads_by_width["backbone"].get(shapes.get("MODEL.BACKBONE.EMBED_DIM"))
    return shapes | ({"MODEL.BACKBONE.NUM_HEADS": heads} if heads else {})
