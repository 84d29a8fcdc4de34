"""Weights as a folder that `from_pretrained` of Transformers takes, the model and its image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vmae_det.checkpoint.files import write_checkpoint
from vmae_det.checkpoint.huggingface import BILINEAR, CONFIG, MODEL_TYPE, PREPROCESSOR
from vmae_det.checkpoint.limits import check_expressible
from vmae_det.checkpoint.published import POSITIONS, from_our_names
from vmae_det.config import CfgNode
from vmae_det.modeling.backbone import LAYER_NORM_EPS
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.output_files import write_json

WEIGHTS = "model.safetensors"
ARCHITECTURES = {
    "MaskedAutoencoder": "VideoMAEForPreTraining",
    "VideoClassifier": "VideoMAEForVideoClassification",
}


def write_folder(
    weights: dict[str, torch.Tensor], cfg: CfgNode, label_map: dict[str, Any] | None, folder: Path
) -> None:
    """Write a model's weights with `config.json` and `preprocessor_config.json`, each whole or not at all.

    Args:
        weights: all of the model that `cfg` describes, under our names.
        label_map: the fields of a LabelMap, whose names become `id2label`.

    Raises:
        WeightsError: Transformers has no such model, or the label map is of other classes.
        OutputError: the folder cannot be written.
    """
    if cfg.MODEL.META_ARCHITECTURE not in ARCHITECTURES:
        raise WeightsError(
            f"{folder}: Transformers has no {cfg.MODEL.META_ARCHITECTURE}; expected "
            f"{' or '.join(ARCHITECTURES)}"
        )
    check_expressible("huggingface", weights, cfg)
    weights = {name: value for name, value in weights.items() if name != POSITIONS}  # they are computed
    _, state_dict, _ = from_our_names(weights, "huggingface")
    write_json(folder / PREPROCESSOR, preprocessor_fields(cfg))
    write_json(folder / CONFIG, config_fields(cfg, label_map))
    write_checkpoint(state_dict, folder / WEIGHTS, None)


def config_fields(cfg: CfgNode, label_map: dict[str, Any] | None) -> dict[str, Any]:
    """The fields of VideoMAEConfig, as `config.json` holds them."""
    backbone, decoder = cfg.MODEL.BACKBONE, cfg.MODEL.DECODER
    classifies = cfg.MODEL.META_ARCHITECTURE == "VideoClassifier"
    fields = {
        "architectures": [ARCHITECTURES[cfg.MODEL.META_ARCHITECTURE]],
        "model_type": MODEL_TYPE,
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
        # The classifier has its norm behind the mean over tokens, the autoencoder behind the encoder.
        "use_mean_pooling": classifies,
        "decoder_hidden_size": decoder.EMBED_DIM,
        "decoder_num_hidden_layers": decoder.DEPTH,
        "decoder_num_attention_heads": decoder.NUM_HEADS,
        "decoder_intermediate_size": 4 * decoder.EMBED_DIM,
        "norm_pix_loss": cfg.MODEL.RECONSTRUCTION.NORMALIZE,
    }
    if classifies:
        names = _names(label_map, cfg.MODEL.CLASSIFIER.NUM_CLASSES)
        fields["id2label"] = dict(enumerate(names))
        fields["label2id"] = {name: number for number, name in enumerate(names)}
        fields["problem_type"] = "single_label_classification"
    return fields


def preprocessor_fields(cfg: CfgNode) -> dict[str, Any]:
    """The fields of VideoMAEImageProcessor, as `preprocessor_config.json` holds them."""
    side = cfg.INPUT.CROP_SIZE
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": cfg.INPUT.TEST_SHORT_SIDE},
        "resample": BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in cfg.MODEL.PIXEL_MEAN],
        "image_std": [value / 255 for value in cfg.MODEL.PIXEL_STD],
    }


def _names(label_map: dict[str, Any] | None, num_classes: int) -> list[str]:
    if label_map is None:
        return [f"LABEL_{number}" for number in range(num_classes)]  # Transformers' own names of classes
    names = list(label_map["names"])
    if len(names) != num_classes:
        raise WeightsError(
            f"MODEL.CLASSIFIER.NUM_CLASSES: {num_classes}, but the label map has {len(names)} classes"
        )
    return names
