"""Weights that others published, by name: where they lie and which config they belong to."""

from __future__ import annotations

from dataclasses import dataclass

from vmae_det.utils.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Weights:
    """A published file.

    Args:
        url: direct address of the file.
        sha256: of its content, or None where it is not known.
        config: the config of the model zoo that the weights fit.
        note: what they were trained on, and for how long.
    """

    url: str
    sha256: str | None
    config: str
    note: str


def _hugging_face(name: str, config: str, note: str, file: str = "pytorch_model.bin") -> Weights:
    return Weights(f"https://huggingface.co/MCG-NJU/{name}/resolve/main/{file}", None, config, note)


# The authors' models, in the Transformers format; CC BY-NC 4.0. A repository holds model.safetensors where
# its listing of files names it; elsewhere only pytorch_model.bin is certain.
WEIGHTS: dict[str, Weights] = {
    "videomae-base": _hugging_face(
        "videomae-base",
        "Kinetics/vit_base_16x4_pretrain.yaml",
        "pre-trained on Kinetics-400, 1600 epochs",
        "model.safetensors",
    ),
    "videomae-base-short": _hugging_face(
        "videomae-base-short",
        "Kinetics/vit_base_16x4_pretrain.yaml",
        "pre-trained on Kinetics-400, 800 epochs",
        "model.safetensors",
    ),
    "videomae-large": _hugging_face(
        "videomae-large",
        "Kinetics/vit_large_16x4_pretrain_as_published.yaml",  # with its decoder of 12 blocks
        "pre-trained on Kinetics-400, 1600 epochs",
    ),
    "videomae-small-finetuned-kinetics": _hugging_face(
        "videomae-small-finetuned-kinetics",
        "Kinetics/vit_small_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 1600 epochs of pre-training on it",
    ),
    "videomae-base-finetuned-kinetics": _hugging_face(
        "videomae-base-finetuned-kinetics",
        "Kinetics/vit_base_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 1600 epochs of pre-training on it",
        "model.safetensors",
    ),
    "videomae-base-short-finetuned-kinetics": _hugging_face(
        "videomae-base-short-finetuned-kinetics",
        "Kinetics/vit_base_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 800 epochs of pre-training on it",
    ),
    "videomae-large-finetuned-kinetics": _hugging_face(
        "videomae-large-finetuned-kinetics",
        "Kinetics/vit_large_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 1600 epochs of pre-training on it",
        "model.safetensors",
    ),
    "videomae-huge-finetuned-kinetics": _hugging_face(
        "videomae-huge-finetuned-kinetics",
        "Kinetics/vit_huge_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 1600 epochs of pre-training on it",
    ),
    "videomae-base-ssv2": _hugging_face(
        "videomae-base-ssv2",
        "SSv2/vit_base_16x2_pretrain.yaml",
        "pre-trained on Something-Something V2, 2400 epochs",
        "model.safetensors",
    ),
    "videomae-base-short-ssv2": _hugging_face(
        "videomae-base-short-ssv2",
        "SSv2/vit_base_16x2_pretrain.yaml",
        "pre-trained on Something-Something V2, 800 epochs",
    ),
    "videomae-small-finetuned-ssv2": _hugging_face(
        "videomae-small-finetuned-ssv2",
        "SSv2/vit_small_16x2_finetune.yaml",
        "fine-tuned on Something-Something V2 after 2400 epochs of pre-training on it",
    ),
    "videomae-base-finetuned-ssv2": _hugging_face(
        "videomae-base-finetuned-ssv2",
        "SSv2/vit_base_16x2_finetune.yaml",
        "fine-tuned on Something-Something V2 after 2400 epochs of pre-training on it",
    ),
    "videomae-base-short-finetuned-ssv2": _hugging_face(
        "videomae-base-short-finetuned-ssv2",
        "SSv2/vit_base_16x2_finetune.yaml",
        "fine-tuned on Something-Something V2 after 800 epochs of pre-training on it",
    ),
}


def get_weights(name: str) -> Weights:
    """The published weights called `name`; ConfigError if there are none."""
    if name not in WEIGHTS:
        raise ConfigError(f"{name}: no such weights in the model zoo{did_you_mean(name, WEIGHTS)}")
    return WEIGHTS[name]
