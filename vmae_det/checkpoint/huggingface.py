"""What Transformers' `config.json` and `preprocessor_config.json` say, as keys of our config and a label map.

https://huggingface.co/docs/transformers/model_doc/videomae: the fields of VideoMAEConfig and
VideoMAEImageProcessor, whose defaults hold where a file lacks one.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from vmae_det.checkpoint.shards import read_json
from vmae_det.utils.errors import WeightsError

logger = logging.getLogger(__name__)

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
_PREPROCESSORS = (PREPROCESSOR, "video_preprocessor_config.json")
MODEL_TYPE = "videomae"
# Our networks normalise with 1e-6, as the authors' do; the config.json of their models say 1e-12.
_LARGEST_EPS = 1e-5
BILINEAR = 2  # of PIL.Image.Resampling
# By width: the config.json of MCG-NJU/videomae-small-* say so, although the authors' model has 6.
DOUBTFUL_HEADS = {384: 16}
_GELU = ("gelu", "gelu_python")
_QUERY = re.compile(r"(?P<attention>(?:.*\.)?attention\.attention\.)query\.weight")


def read_settings(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the JSON files of a folder say of its `tensors`, as the content of a checkpoint of this program.

    Returns:
        `config`, as YAML with the keys that the files decide; `label_map`; either may be missing. `model`:
        the tensors, with zeros for the biases of attention that the config switches off.

    Raises:
        WeightsError: a file is damaged, or describes a network that ours cannot be.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    fields = _Fields(read_json(path), path)
    if fields.text("model_type", MODEL_TYPE) != MODEL_TYPE:
        _warn(
            "%s: its model_type is '%s', not '%s': not used", path, fields.text("model_type", ""), MODEL_TYPE
        )
        return {}
    _refuse_other_networks(fields)
    content: dict[str, Any] = {}
    if not fields.flag("qv_bias", fields.flag("qkv_bias", True)):
        content["model"] = tensors | _zero_biases(tensors)
    keys = _backbone_keys(fields)
    if "decoder.head.weight" in tensors:
        keys |= _decoder_keys(fields)
    elif "classifier.weight" in tensors:
        names = _class_names(fields, len(tensors["classifier.weight"]))
        keys |= _classifier_keys(fields, len(names))
        content["label_map"] = _label_map(names, path)
    else:  # a backbone alone, from which no model follows
        return content
    keys |= _preprocessor_keys(folder, keys["INPUT.CROP_SIZE"])
    content["config"] = yaml.safe_dump(keys)
    return content


@functools.cache
def _warn(text: str, *parts: object) -> None:
    """A warning, once for several readings of a file."""
    logger.warning(text, *parts)


class _Fields:
    """The fields of a JSON file, each checked as it is taken."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def error(self, problem: str) -> WeightsError:
        return WeightsError(f"{self.path}: {problem}")

    def _get(self, name: str, default: Any, kinds: tuple[type, ...], expected: str) -> Any:
        value = self.values.get(name, default)
        if value is None:
            value = default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.error(f"'{name}': expected {expected}, got {value!r:.80}")
        return value

    def whole(self, name: str, default: int) -> int:
        value = self._get(name, default, (int,), "a whole number")
        if not 1 <= value < 10**6:
            raise self.error(f"'{name}': expected a whole number from 1 on, got {value!r:.80}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self._get(name, default, (int, float), "a number")
        if not math.isfinite(value):
            raise self.error(f"'{name}': expected a number, got {value}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        return self._get(name, default, (bool,), "true or false")

    def text(self, name: str, default: str) -> str:
        return self._get(name, default, (str,), "a string")

    def side(self, name: str, default: int) -> int:
        """A square's side, given as a number or as a pair of equal ones."""
        value = self.values.get(name, default)
        if isinstance(value, (list, tuple)) and len(value) == 2:
            if value[0] != value[1]:
                raise self.error(f"'{name}': {value} is no square, as our networks take it")
            return _Fields({name: value[0]}, self.path).whole(name, default)
        return self.whole(name, default)

    def triple(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        value = self._get(name, default, (list, tuple, int, float), "three numbers")
        value = value if isinstance(value, (list, tuple)) else [value] * 3
        if len(value) != 3:
            raise self.error(f"'{name}': expected three numbers, got {value!r:.80}")
        return tuple(_Fields({name: part}, self.path).number(name, 0.0) for part in value)


def _refuse_other_networks(fields: _Fields) -> None:
    activation = fields.text("hidden_act", "gelu")
    if activation not in _GELU:
        raise fields.error(f"'hidden_act': {activation}; our networks have gelu alone")
    eps = fields.number("layer_norm_eps", 1e-12)
    if not 0 <= eps <= _LARGEST_EPS:
        raise fields.error(f"'layer_norm_eps': {eps:g}; our networks have 1e-06 and come close up to 1e-05")
    if fields.whole("num_channels", 3) != 3:
        raise fields.error(f"'num_channels': {fields.whole('num_channels', 3)}; our networks take RGB, 3")


def _zero_biases(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Biases of 0 for queries and values, which change nothing, for layers of attention that have none."""
    zeros = {}
    for name, weight in tensors.items():
        match = _QUERY.fullmatch(name)
        if match and weight.ndim:
            for part in ("q_bias", "v_bias"):
                zeros[match["attention"] + part] = weight.new_zeros(len(weight))
    return {name: value for name, value in zeros.items() if name not in tensors}


def _backbone_keys(fields: _Fields) -> dict[str, Any]:
    width, hidden = fields.whole("hidden_size", 768), fields.whole("intermediate_size", 3072)
    heads = fields.whole("num_attention_heads", 12)
    if heads == DOUBTFUL_HEADS.get(width):
        _warn(
            "%s: 'num_attention_heads' is %d, as in MCG-NJU/videomae-small-*, but the authors' models of "
            "this width have 6, and other results with %d: set MODEL.BACKBONE.NUM_HEADS 6 for one of theirs",
            fields.path,
            heads,
            heads,
        )
    return {
        "MODEL.BACKBONE.EMBED_DIM": width,
        "MODEL.BACKBONE.DEPTH": fields.whole("num_hidden_layers", 12),
        "MODEL.BACKBONE.NUM_HEADS": heads,
        "MODEL.BACKBONE.MLP_RATIO": _ratio(hidden, width),
        "MODEL.BACKBONE.PATCH_SIZE": fields.side("patch_size", 16),
        "MODEL.BACKBONE.TUBELET_SIZE": fields.whole("tubelet_size", 2),
        "MODEL.BACKBONE.POSITIONS": "flat",
        "INPUT.NUM_FRAMES": fields.whole("num_frames", 16),
        "INPUT.CROP_SIZE": fields.side("image_size", 224),
    }


def _ratio(hidden: int, width: int) -> float:
    """A factor by which `width` becomes `hidden` when the product is cut to a whole number."""
    ratio = hidden / width
    while int(width * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _decoder_keys(fields: _Fields) -> dict[str, Any]:
    return {
        "MODEL.META_ARCHITECTURE": "MaskedAutoencoder",
        "MODEL.DECODER.EMBED_DIM": fields.whole("decoder_hidden_size", 384),
        "MODEL.DECODER.DEPTH": fields.whole("decoder_num_hidden_layers", 4),
        "MODEL.DECODER.NUM_HEADS": fields.whole("decoder_num_attention_heads", 6),
        "MODEL.RECONSTRUCTION.NORMALIZE": fields.flag("norm_pix_loss", True),
    }


def _classifier_keys(fields: _Fields, num_classes: int) -> dict[str, Any]:
    if not fields.flag("use_mean_pooling", True):
        raise fields.error("'use_mean_pooling': false; our classifier takes the mean over all tokens")
    problem = fields.text("problem_type", "single_label_classification")
    if problem != "single_label_classification":
        raise fields.error(f"'problem_type': {problem}; our classifier gives one label to a video")
    return {"MODEL.META_ARCHITECTURE": "VideoClassifier", "MODEL.CLASSIFIER.NUM_CLASSES": num_classes}


def _class_names(fields: _Fields, rows: int) -> list[str]:
    """The names of the classifier's rows."""
    given = fields._get("id2label", {str(n): f"LABEL_{n}" for n in range(rows)}, (dict,), "an object")
    names = [given.get(str(n)) for n in range(rows)]
    if len(given) != rows or not all(isinstance(name, str) for name in names):
        raise fields.error(
            f'\'id2label\': expected a name for each of "0" to "{rows - 1}", the rows of the classifier, got '
            f"{len(given)} entries"
        )
    return names


def _label_map(names: list[str], path: Path) -> dict[str, list] | None:
    """The fields of a LabelMap; None for LABEL_0, LABEL_1, ..., which name nothing."""
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None
    if len(set(names)) < len(names):
        _warn("%s: names of 'id2label' come twice: not used as a label map", path)
        return None
    return {"ids": list(range(1, len(names) + 1)), "names": names, "kinds": [""] * len(names)}


def _preprocessor_keys(folder: Path, crop_size: int) -> dict[str, Any]:
    path = next((folder / name for name in _PREPROCESSORS if (folder / name).is_file()), None)
    if path is None:
        _warn("%s: no %s there; MODEL.PIXEL_MEAN and PIXEL_STD are the config's", folder, PREPROCESSOR)
        return {"INPUT.TEST_SHORT_SIDE": crop_size}
    fields = _Fields(read_json(path), path)
    scale = fields.number("rescale_factor", 1 / 255) if fields.flag("do_rescale", True) else 1.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if fields.flag("do_normalize", True):
        # The defaults of VideoMAEImageProcessor are 0.5, not ImageNet's.
        mean, std = fields.triple("image_mean", (0.5,) * 3), fields.triple("image_std", (0.5,) * 3)
    if scale <= 0 or min(std) <= 0:
        raise fields.error("'rescale_factor' and 'image_std' must be above 0")
    resample = fields.number("resample", BILINEAR)
    if resample != BILINEAR:
        _warn("%s: 'resample' is %g; here frames are resized by bilinear interpolation, 2", path, resample)
    crop = fields.values.get("crop_size") or crop_size
    if crop not in (crop_size, [crop_size] * 2, {"height": crop_size, "width": crop_size}):
        _warn(
            "%s: 'crop_size' is %s, but 'image_size' of %s is %d, which is taken",
            path,
            str(crop)[:80],
            CONFIG,
            crop_size,
        )
    return {
        "MODEL.PIXEL_MEAN": [_rounded(value / scale) for value in mean],
        "MODEL.PIXEL_STD": [_rounded(value / scale) for value in std],
        "INPUT.TEST_SHORT_SIDE": _short_side(fields, crop_size),
    }


def _rounded(value: float) -> float:
    """Without the last digits of a division, so that 0.485 becomes 123.675 again."""
    return float(f"{value:.10g}")


def _short_side(fields: _Fields, crop_size: int) -> int:
    if not fields.flag("do_resize", True):
        return crop_size
    size = fields._get("size", {"shortest_edge": 224}, (dict, int), "an object")
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if "shortest_edge" not in size:
        _warn(
            "%s: 'size' %s stretches frames to a square; here their aspect is kept and they are cropped",
            fields.path,
            str(size),
        )
        return crop_size
    edge = _Fields(size, fields.path).whole("shortest_edge", 224)
    if edge < crop_size:
        raise fields.error(
            f"'size': frames of {edge} pixels, smaller than the 'image_size' {crop_size} of {CONFIG}"
        )
    return edge
