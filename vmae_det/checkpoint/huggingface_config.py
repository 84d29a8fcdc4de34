"""Translate `config.json` and `preprocessor_config.json` of Transformers to our config and back.

The fields are those of VideoMAEConfig and VideoMAEImageProcessor, whose defaults apply if a file lacks one:
https://huggingface.co/docs/transformers/model_doc/videomae
"""

from __future__ import annotations

import functools
import logging
import math
import re
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from vmae_det.checkpoint.huggingface_folder import read_json
from vmae_det.checkpoint.published_formats import VJEPA_HEADS_BY_WIDTH
from vmae_det.config import CfgNode
from vmae_det.modeling.backbones.blocks import LAYER_NORM_EPS
from vmae_det.utils.errors import WeightsError

logger = logging.getLogger(__name__)

CONFIG = "config.json"
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
ARCHITECTURES = {
    "MaskedAutoencoder": "VideoMAEForPreTraining",
    "VideoClassifier": "VideoMAEForVideoClassification",
}
_MODEL_TYPE = "videomae"
_VJEPA_MODEL_TYPE = "vjepa2"  # whose fields are those of VJEPA2Config
# Our networks use LAYER_NORM_EPS, as the authors' do, although the config.json of the authors' models has
# 1e-12. Results stay close up to this value.
_LARGEST_EPS = 1e-5
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR
# By width: the config.json of MCG-NJU/videomae-small-* states 16, but the authors' model has 6.
DOUBTFUL_HEADS = {384: 16}
_GELU = ("gelu", "gelu_python")
_QUERY = re.compile(r"(?P<attention>(?:.*\.)?attention\.attention\.)query\.weight")


def read_settings(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Read the JSON files of a folder as entries of a checkpoint of ours.

    Args:
        tensors: the weights in the folder.

    Returns:
        `config`: YAML with the keys that the files set. `label_map`. Either may be absent. `model`, if the
        config disables the biases of attention: the tensors with zeros for these biases.

    Raises:
        WeightsError: a file is damaged, or describes an unsupported network.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    fields = _Fields(read_json(path), path)
    if fields.string("model_type", _MODEL_TYPE) == _VJEPA_MODEL_TYPE:
        _check_vjepa(fields)
        return {}  # only the encoder is used, for any model
    if fields.string("model_type", _MODEL_TYPE) != _MODEL_TYPE:
        _warn_once(
            "%s: ignored, since its model_type is '%s', not '%s'",
            path,
            fields.string("model_type", ""),
            _MODEL_TYPE,
        )
        return {}
    _refuse_unsupported(fields)
    content: dict[str, Any] = {}
    if not fields.boolean("qv_bias", fields.boolean("qkv_bias", True)):
        content["model"] = tensors | _zero_biases(tensors)
    keys = _backbone_keys(fields)
    if "decoder.head.weight" in tensors:
        keys |= _decoder_keys(fields)
    elif "classifier.weight" in tensors:
        names = _class_names(fields, len(tensors["classifier.weight"]))
        keys |= _classifier_keys(fields, len(names))
        content["label_map"] = _label_map(names, path)
    else:  # only a backbone, for any model
        return content
    keys |= _preprocessor_keys(folder, keys["INPUT.CROP_SIZE"])
    content["config"] = yaml.safe_dump(keys)
    return content


@functools.cache
def _warn_once(text: str, *values: object) -> None:
    """Log a warning only once, although a command may read a file several times."""
    logger.warning(text, *values)


class _Fields:
    """Fields of a JSON file. Each is validated when it is read."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def error(self, problem: str) -> WeightsError:
        return WeightsError(f"{self.path}: {problem}")

    def get(self, name: str, default: Any, types: tuple[type, ...], expected: str) -> Any:
        value = self.values.get(name, default)
        if value is None:
            value = default
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise self.error(f"'{name}': expected {expected}, got {value!r:.80}")
        return value

    def integer(self, name: str, default: int) -> int:
        value = self.get(name, default, (int,), "an integer")
        if not 1 <= value < 10**6:
            raise self.error(f"'{name}': expected an integer of at least 1, got {value!r:.80}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default, (int, float), "a number")
        if not abs(value) <= sys.float_info.max:  # also of an integer, for which math.isfinite may overflow
            raise self.error(f"'{name}': expected a finite number, got {value!s:.80}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        return self.get(name, default, (bool,), "true or false")

    def string(self, name: str, default: str) -> str:
        return self.get(name, default, (str,), "a string")

    def side(self, name: str, default: int) -> int:
        """Return the side of a square, which may be given as one number or as two equal ones."""
        value = self.values.get(name, default)
        if isinstance(value, (list, tuple)) and len(value) == 2:
            if value[0] != value[1]:
                raise self.error(f"'{name}': expected a square, got {value}")
            return _Fields({name: value[0]}, self.path).integer(name, default)
        return self.integer(name, default)

    def triple(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """Return three numbers, which may be given as one."""
        value = self.get(name, default, (list, tuple, int, float), "three numbers")
        value = value if isinstance(value, (list, tuple)) else [value] * 3
        if len(value) != 3:
            raise self.error(f"'{name}': expected three numbers, got {value!r:.80}")
        return tuple(_Fields({name: part}, self.path).number(name, 0.0) for part in value)


def _refuse_unsupported(fields: _Fields) -> None:
    activation = fields.string("hidden_act", "gelu")
    if activation not in _GELU:
        raise fields.error(f"'hidden_act': expected gelu, got {activation}")
    eps = fields.number("layer_norm_eps", 1e-12)
    if not 0 <= eps <= _LARGEST_EPS:
        raise fields.error(
            f"'layer_norm_eps': expected 0 to {_LARGEST_EPS:g}, got {eps:g}; vmae_det uses {LAYER_NORM_EPS:g}"
        )
    channels = fields.integer("num_channels", 3)
    if channels != 3:
        raise fields.error(f"'num_channels': expected 3 (RGB), got {channels}")


def _check_vjepa(fields: _Fields) -> None:
    """Raise WeightsError for an unsupported network; warn about an unusual number of heads."""
    _refuse_unsupported(fields)
    channels = fields.integer("in_chans", 3)
    if channels != 3:
        raise fields.error(f"'in_chans': expected 3 (RGB), got {channels}")
    if not fields.boolean("qkv_bias", True):
        raise fields.error("'qkv_bias': expected true, got false")
    width, heads = fields.integer("hidden_size", 1024), fields.integer("num_attention_heads", 16)
    if heads != VJEPA_HEADS_BY_WIDTH["backbone"].get(width):
        _warn_once(
            "%s: 'num_attention_heads' is %d; set MODEL.BACKBONE.NUM_HEADS %d", fields.path, heads, heads
        )


def _zero_biases(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return query and value biases of zeros, which have no effect, for attention layers without biases."""
    zeros = {}
    for name, weight in tensors.items():
        match = _QUERY.fullmatch(name)
        if match and weight.ndim:
            for bias in ("q_bias", "v_bias"):
                zeros[match["attention"] + bias] = weight.new_zeros(len(weight))
    return {name: value for name, value in zeros.items() if name not in tensors}


def _backbone_keys(fields: _Fields) -> dict[str, Any]:
    width, hidden = fields.integer("hidden_size", 768), fields.integer("intermediate_size", 3072)
    heads = fields.integer("num_attention_heads", 12)
    if heads == DOUBTFUL_HEADS.get(width):
        _warn_once(
            "%s: 'num_attention_heads' is %d, as in MCG-NJU/videomae-small-*, but the authors' models of "
            "this width have 6 heads, and produce different results with %d: set MODEL.BACKBONE.NUM_HEADS 6 "
            "for one of the authors' models",
            fields.path,
            heads,
            heads,
        )
    return {
        "MODEL.BACKBONE.EMBED_DIM": width,
        "MODEL.BACKBONE.DEPTH": fields.integer("num_hidden_layers", 12),
        "MODEL.BACKBONE.NUM_HEADS": heads,
        "MODEL.BACKBONE.MLP_RATIO": _ratio(hidden, width),
        "MODEL.BACKBONE.PATCH_SIZE": fields.side("patch_size", 16),
        "MODEL.BACKBONE.TUBELET_SIZE": fields.integer("tubelet_size", 2),
        "MODEL.BACKBONE.POSITIONS": "flat",
        "INPUT.NUM_FRAMES": fields.integer("num_frames", 16),
        "INPUT.CROP_SIZE": fields.side("image_size", 224),
    }


def _ratio(hidden: int, width: int) -> float:
    """Return a ratio for which `int(width * ratio)` is exactly `hidden`."""
    ratio = hidden / width
    while int(width * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _decoder_keys(fields: _Fields) -> dict[str, Any]:
    return {
        "MODEL.META_ARCHITECTURE": "MaskedAutoencoder",
        "MODEL.DECODER.EMBED_DIM": fields.integer("decoder_hidden_size", 384),
        "MODEL.DECODER.DEPTH": fields.integer("decoder_num_hidden_layers", 4),
        "MODEL.DECODER.NUM_HEADS": fields.integer("decoder_num_attention_heads", 6),
        "MODEL.RECONSTRUCTION.NORMALIZE": fields.boolean("norm_pix_loss", True),
    }


def _classifier_keys(fields: _Fields, num_classes: int) -> dict[str, Any]:
    if not fields.boolean("use_mean_pooling", True):
        raise fields.error("'use_mean_pooling': expected true, got false; VideoClassifier uses mean pooling")
    problem = fields.string("problem_type", "single_label_classification")
    if problem != "single_label_classification":
        raise fields.error(
            f"'problem_type': expected single_label_classification, got {problem}; VideoClassifier predicts "
            "one label per video"
        )
    return {"MODEL.META_ARCHITECTURE": "VideoClassifier", "MODEL.CLASSIFIER.NUM_CLASSES": num_classes}


def _class_names(fields: _Fields, rows: int) -> list[str]:
    """Return the class names in the order of the classifier's rows."""
    id2label = fields.get("id2label", {str(n): f"LABEL_{n}" for n in range(rows)}, (dict,), "an object")
    names = [id2label.get(str(n)) for n in range(rows)]
    if len(id2label) != rows or not all(isinstance(name, str) for name in names):
        raise fields.error(
            f'\'id2label\': expected a name for each of "0" to "{rows - 1}", the rows of the classifier, got '
            f"{len(id2label)} entries"
        )
    return names


def _label_map(names: list[str], path: Path) -> dict[str, list] | None:
    """Return the fields of a LabelMap, or None for the default names LABEL_0, LABEL_1, ..."""
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None
    if len(set(names)) < len(names):
        _warn_once("%s: 'id2label' is not used as a label map, since it has duplicate names", path)
        return None
    return {"ids": list(range(1, len(names) + 1)), "names": names, "kinds": [""] * len(names)}


def _preprocessor_keys(folder: Path, crop_size: int) -> dict[str, Any]:
    path = next((folder / name for name in PREPROCESSORS if (folder / name).is_file()), None)
    if path is None:
        _warn_once(
            "%s: no %s in the folder; using MODEL.PIXEL_MEAN and PIXEL_STD of the config",
            folder,
            PREPROCESSORS[0],
        )
        return {"INPUT.TEST_SHORT_SIDE": crop_size}
    fields = _Fields(read_json(path), path)
    scale = fields.number("rescale_factor", 1 / 255) if fields.boolean("do_rescale", True) else 1.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if fields.boolean("do_normalize", True):
        # The defaults of VideoMAEImageProcessor are 0.5, not the statistics of ImageNet.
        mean, std = fields.triple("image_mean", (0.5,) * 3), fields.triple("image_std", (0.5,) * 3)
    if scale <= 0 or min(std) <= 0:
        raise fields.error("'rescale_factor' and 'image_std' must be above 0")
    resample = fields.number("resample", _BILINEAR)
    if resample != _BILINEAR:
        _warn_once("%s: 'resample' is %g; using bilinear interpolation, %d", path, resample, _BILINEAR)
    crop = fields.values.get("crop_size") or crop_size
    if crop not in (crop_size, [crop_size] * 2, {"height": crop_size, "width": crop_size}):
        _warn_once(
            "%s: 'crop_size' is %s, but 'image_size' of %s is %d; using the latter",
            path,
            str(crop)[:80],
            CONFIG,
            crop_size,
        )
    return {
        "MODEL.PIXEL_MEAN": [_round(value / scale) for value in mean],
        "MODEL.PIXEL_STD": [_round(value / scale) for value in std],
        "INPUT.TEST_SHORT_SIDE": _short_side(fields, crop_size),
    }


def _round(value: float) -> float:
    """Round off the error of a division, so that 0.485 becomes 123.675 again."""
    return float(f"{value:.10g}")


def _short_side(fields: _Fields, crop_size: int) -> int:
    if not fields.boolean("do_resize", True):
        return crop_size
    size = fields.get("size", {"shortest_edge": 224}, (dict, int), "an object")
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if "shortest_edge" not in size:
        _warn_once(
            "%s: 'size' %s stretches frames to a square; vmae_det keeps their aspect ratio and crops them",
            fields.path,
            str(size),
        )
        return crop_size
    edge = _Fields(size, fields.path).integer("shortest_edge", 224)
    if edge < crop_size:
        raise fields.error(
            f"'size': frames of {edge} pixels are smaller than the 'image_size' {crop_size} of {CONFIG}"
        )
    return edge


def config_fields(cfg: CfgNode, label_map: dict[str, Any] | None) -> dict[str, Any]:
    """Return the fields of VideoMAEConfig, which `config.json` contains, for a config of ours.

    Args:
        label_map: fields of a LabelMap, whose names become `id2label`.

    Raises:
        WeightsError: the label map does not have MODEL.CLASSIFIER.NUM_CLASSES classes.
    """
    backbone, decoder = cfg.MODEL.BACKBONE, cfg.MODEL.DECODER
    is_classifier = cfg.MODEL.META_ARCHITECTURE == "VideoClassifier"
    fields = {
        "architectures": [ARCHITECTURES[cfg.MODEL.META_ARCHITECTURE]],
        "model_type": _MODEL_TYPE,
        "torch_dtype": "float32",
        "image_size": cfg.INPUT.CROP_SIZE,
        "num_frames": cfg.INPUT.NUM_FRAMES,
        "num_channels": 3,
        "patch_size": backbone.PATCH_SIZE,
        "tubelet_size": backbone.TUBELET_SIZE,
        "hidden_size": backbone.EMBED_DIM,
        "num_hidden_layers": backbone.DEPTH,
        "num_attention_heads": backbone.NUM_HEADS,
        "intermediate_size": int(backbone.EMBED_DIM * backbone.MLP_RATIO),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS,
        "qkv_bias": True,
        # The norm follows the mean over tokens in a classifier, and the encoder in an autoencoder.
        "use_mean_pooling": is_classifier,
        "decoder_hidden_size": decoder.EMBED_DIM,
        "decoder_num_hidden_layers": decoder.DEPTH,
        "decoder_num_attention_heads": decoder.NUM_HEADS,
        "decoder_intermediate_size": 4 * decoder.EMBED_DIM,
        "norm_pix_loss": cfg.MODEL.RECONSTRUCTION.NORMALIZE,
    }
    if is_classifier:
        names = _names_for_id2label(label_map, cfg.MODEL.CLASSIFIER.NUM_CLASSES)
        fields["id2label"] = dict(enumerate(names))
        fields["label2id"] = {name: number for number, name in enumerate(names)}
        fields["problem_type"] = "single_label_classification"
    return fields


def _names_for_id2label(label_map: dict[str, Any] | None, num_classes: int) -> list[str]:
    if label_map is None:
        return [f"LABEL_{number}" for number in range(num_classes)]  # as Transformers names them
    names = list(label_map["names"])
    if len(names) != num_classes:
        raise WeightsError(
            f"MODEL.CLASSIFIER.NUM_CLASSES: {num_classes}, but the label map has {len(names)} classes"
        )
    return names


def preprocessor_fields(cfg: CfgNode) -> dict[str, Any]:
    """Return the fields of VideoMAEImageProcessor, which `preprocessor_config.json` contains."""
    side = cfg.INPUT.CROP_SIZE
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": cfg.INPUT.TEST_SHORT_SIDE},
        "resample": _BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in cfg.MODEL.PIXEL_MEAN],
        "image_std": [value / 255 for value in cfg.MODEL.PIXEL_STD],
    }
