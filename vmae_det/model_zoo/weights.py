"""Published weights by name, with their URL and the config that they fit."""

from __future__ import annotations

from dataclasses import dataclass

from vmae_det.utils.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Weights:
    """A published weights file.

    Args:
        url: URL of the file itself; "" if the file can only be downloaded by hand, from `page`.
        sha256: SHA-256 of the file, or its first digits (8 or more); None if it is unknown.
        config: name of the model zoo config that the weights fit.
        note: dataset and number of epochs of the training.
        license: license of the weights, such as "CC BY-NC 4.0".
        result: published result, such as "31.8 mAP"; "" if none is known.
        label_map: name of the built-in label map (`LabelMap.builtin`) of the outputs; "" if the weights have
            no classes, or the file contains their names.
        page: web page from which the file is downloaded by hand; "" if `url` is set.
    """

    url: str
    sha256: str | None
    config: str
    note: str
    license: str = ""
    result: str = ""
    label_map: str = ""
    page: str = ""


def _hugging_face(
    name: str, config: str, note: str, file: str = "pytorch_model.bin", label_map: str = "", result: str = ""
) -> Weights:
    url = f"https://huggingface.co/MCG-NJU/{name}/resolve/main/{file}"
    return Weights(url, None, config, note, "CC BY-NC 4.0", result, label_map)


def _videomae_detector(file_id: str, config: str, start: str, result: str) -> Weights:
    """Return a detector of VideoMAE-Action-Detection. Google Drive serves its files to browsers only."""
    return Weights(
        "",
        None,
        config,
        f"fine-tuned on AVA v2.2 after {start} on Kinetics-400",
        "CC BY-NC 4.0",
        result,
        "ava_v2.2",
        f"https://drive.google.com/file/d/{file_id}/view",
    )


def _mmaction2_detector(size: str, digits: str, result: str) -> Weights:
    """Return a detector of mmaction2, whose file name ends in the first digits of its SHA-256."""
    name = f"vit-{size}-p16_videomae-k400-pre_8xb8-16x4x1-20e-adamw_ava-kinetics-rgb"
    return Weights(
        f"https://download.openmmlab.com/mmaction/v1.0/detection/videomae/{name}/{name}_20230314-{digits}.pth",
        digits,
        f"AVA/vit_{size}_16x4_mmaction2.yaml",
        "fine-tuned on AVA-Kinetics, 20 epochs, after fine-tuning on Kinetics-400",
        "Apache-2.0, trained from weights under CC BY-NC 4.0",
        result,
        "ava_v2.2",
    )


_UMT = "https://pjlab-gvm-data.oss-cn-shanghai.aliyuncs.com/umt/single_modality"


def _umt(
    name: str,
    trained: str,
    config: str,
    note: str,
    label_map: str = "",
    results: tuple[str, str] = ("", ""),
) -> dict[str, Weights]:
    """Return the ViT-B and ViT-L of UMT (Unmasked Teacher), by name.

    Args:
        name, config: with a placeholder for the size.
        trained: datasets of the training, as in the name of the file.
        results: of both sizes.
    """
    models = {}
    for size, result in zip(("base", "large"), results):
        url = f"{_UMT}/{size[0]}16_{trained}_f8_res224.pth"
        models[name.format(size)] = Weights(url, None, config.format(size), note, "MIT", result, label_map)
    return models


def _videomae_v2(file: str, config: str, note: str, result: str = "", label_map: str = "") -> Weights:
    url = f"https://huggingface.co/OpenGVLab/VideoMAE2/resolve/main/{file}.pth"
    return Weights(url, None, config, note, "CC BY-NC 4.0 (not verified); code MIT", result, label_map)


def _mae_st(size: str, dataset: str, result: str = "") -> Weights:
    return Weights(
        f"https://dl.fbaipublicfiles.com/video-mae/pretrain/mae_pretrain_vit_{size}_k{dataset}.pth",
        None,
        f"Kinetics/mae_st_{size}_16x4_finetune.yaml",
        f"pre-trained on Kinetics-{dataset}, 1600 effective epochs",
        "CC BY-NC 4.0",
        result,
    )


def _image_mae(size: str, result: str) -> Weights:
    return Weights(
        f"https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_{size}.pth",
        None,
        f"Kinetics/image_mae_{size}_16x4_finetune.yaml",
        "pre-trained on images of ImageNet-1k",
        "CC BY-NC 4.0",
        result,
    )


def _vjepa2(size: str, pixels: int, config: str) -> Weights:
    """Return an encoder of V-JEPA 2 in the format of Transformers."""
    url = f"https://huggingface.co/facebook/vjepa2-vit{size}-fpc64-{pixels}/resolve/main/model.safetensors"
    note = f"self-supervised pre-training on VideoMix22M, {pixels} x {pixels} pixels; an encoder without head"
    return Weights(url, None, config, note, license="MIT")


def _vjepa21(file: str, config: str, how: str) -> Weights:
    """Return an encoder of V-JEPA 2.1 in the authors' format."""
    url = f"https://dl.fbaipublicfiles.com/vjepa2/vjepa2_1_{file}_384.pt"
    note = f"self-supervised pre-training on video and images, 384 x 384 pixels{how}; an encoder without head"
    return Weights(url, None, config, note, license="MIT")


def _hiera(size: str, result: str = "") -> Weights:
    """Return a video model of Hiera: fine-tuned on Kinetics-400 if it has a result, else only pre-trained."""
    return Weights(
        f"https://dl.fbaipublicfiles.com/hiera/{'' if result else 'mae_'}hiera_{size}_16x224.pth",
        None,
        f"Kinetics/hiera_{size}_16x4_finetune.yaml",
        f"{'fine-tuned' if result else 'pre-trained'} on Kinetics-400",
        "CC BY-NC 4.0",
        result,
        "kinetics400" if result else "",
    )


# The authors' models in the format of Transformers. The file is model.safetensors where the
# repository is known to contain it, and pytorch_model.bin otherwise.
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
        "Kinetics/vit_large_16x4_pretrain_as_published.yaml",  # its decoder has 12 blocks
        "pre-trained on Kinetics-400, 1600 epochs",
    ),
    "videomae-small-finetuned-kinetics": _hugging_face(
        "videomae-small-finetuned-kinetics",
        "Kinetics/vit_small_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 1600 epochs of pre-training on it",
        label_map="kinetics400",
        result="Kinetics-400: 79.0 top-1",
    ),
    "videomae-base-finetuned-kinetics": _hugging_face(
        "videomae-base-finetuned-kinetics",
        "Kinetics/vit_base_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 1600 epochs of pre-training on it",
        "model.safetensors",
        label_map="kinetics400",
        result="Kinetics-400: 81.5 top-1",
    ),
    "videomae-base-short-finetuned-kinetics": _hugging_face(
        "videomae-base-short-finetuned-kinetics",
        "Kinetics/vit_base_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 800 epochs of pre-training on it",
        label_map="kinetics400",
        result="Kinetics-400: 81.0 top-1",
    ),
    "videomae-large-finetuned-kinetics": _hugging_face(
        "videomae-large-finetuned-kinetics",
        "Kinetics/vit_large_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 1600 epochs of pre-training on it",
        "model.safetensors",
        label_map="kinetics400",
        result="Kinetics-400: 85.2 top-1",
    ),
    "videomae-huge-finetuned-kinetics": _hugging_face(
        "videomae-huge-finetuned-kinetics",
        "Kinetics/vit_huge_16x4_finetune.yaml",
        "fine-tuned on Kinetics-400 after 1600 epochs of pre-training on it",
        label_map="kinetics400",
        result="Kinetics-400: 86.6 top-1",
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
        label_map="ssv2",
        result="SSv2: 66.8 top-1",
    ),
    "videomae-base-finetuned-ssv2": _hugging_face(
        "videomae-base-finetuned-ssv2",
        "SSv2/vit_base_16x2_finetune.yaml",
        "fine-tuned on Something-Something V2 after 2400 epochs of pre-training on it",
        label_map="ssv2",
        result="SSv2: 70.8 top-1",
    ),
    "videomae-base-short-finetuned-ssv2": _hugging_face(
        "videomae-base-short-finetuned-ssv2",
        "SSv2/vit_base_16x2_finetune.yaml",
        "fine-tuned on Something-Something V2 after 800 epochs of pre-training on it",
        label_map="ssv2",
        result="SSv2: 69.6 top-1",
    ),
    # Detectors of https://github.com/MCG-NJU/VideoMAE-Action-Detection. Those of ViT-L and ViT-H are not
    # published.
    "videomae-small-ava": _videomae_detector(
        "1gFJ8NnPPinpDO_caBg4CXR6fTDPOCVw_",
        "AVA/vit_small_16x4_as_published.yaml",
        "pre-training",
        "22.5 mAP",
    ),
    "videomae-small-finetuned-kinetics-ava": _videomae_detector(
        "1b9Lp64IF8vjhh19mjDdyoSSiZk6cFfKb",
        "AVA/vit_small_16x4_from_kinetics_as_published.yaml",
        "pre-training and fine-tuning",
        "28.4 mAP",
    ),
    "videomae-base-ava": _videomae_detector(
        "19OG6aW-JKYtcgNiBLE4VXD6oAKAfklCB", "AVA/vit_base_16x4_as_published.yaml", "pre-training", "26.7 mAP"
    ),
    "videomae-base-finetuned-kinetics-ava": _videomae_detector(
        "1-YgaSSM9xWc4V_HjVG-FH0LMA6KV-Qdh",
        "AVA/vit_base_16x4_from_kinetics_as_published.yaml",
        "pre-training and fine-tuning",
        "31.8 mAP",
    ),
    "mmaction2-videomae-base-ava-kinetics": _mmaction2_detector("base", "3dafab75", "33.6 mAP"),
    "mmaction2-videomae-large-ava-kinetics": _mmaction2_detector("large", "bf93c9ea", "38.7 mAP"),
    # UMT: 8 frames, one frame per token.
    **_umt("umt-{}", "ptk710", "Kinetics/umt_{}_8_k710.yaml", "pre-trained on Kinetics-710, 200 epochs"),
    **_umt(
        "umt-{}-k710",
        "ptk710_ftk710",
        "Kinetics/umt_{}_8_k710.yaml",
        "fine-tuned on Kinetics-710 after pre-training on it",
        results=("Kinetics-710: 81.9 top-1", "Kinetics-710: 86.0 top-1"),
    ),
    **_umt(
        "umt-{}-finetuned-kinetics",
        "ptk710_ftk710_ftk400",
        "Kinetics/umt_{}_8_finetune.yaml",
        "fine-tuned on Kinetics-710 and Kinetics-400 after pre-training on Kinetics-710",
        "kinetics400_umt",
        ("Kinetics-400: 87.4 top-1", "Kinetics-400: 90.3 top-1"),
    ),
    **_umt(
        "umt-{}-ava",
        "ptk710_ftk710_ftava",
        "AVA/umt_{}_8x37.yaml",
        "fine-tuned on AVA v2.2 after pre-training and fine-tuning on Kinetics-710",
        "ava_v2.2",
        ("33.5 mAP", "39.8 mAP"),
    ),
    "videomaev2-small-k710": _videomae_v2(
        "distill/vit_s_k710_dl_from_giant",
        "Kinetics/videomaev2_small_16x4_k710.yaml",
        "distilled on Kinetics-710 from VideoMAE V2's ViT-g",
        "Kinetics-710: 77.6 top-1",
        "kinetics710",
    ),
    "videomaev2-base-k710": _videomae_v2(
        "distill/vit_b_k710_dl_from_giant",
        "Kinetics/videomaev2_base_16x4_k710.yaml",
        "distilled on Kinetics-710 from VideoMAE V2's ViT-g",
        "Kinetics-710: 81.5 top-1",
        "kinetics710",
    ),
    "videomaev2-giant": _videomae_v2(
        "mae-g/vit_g_hybrid_pt_1200e",
        "Kinetics/videomaev2_giant_16x4_pretrain.yaml",
        "pre-trained on UnlabeledHybrid, 1200 epochs",
    ),
    "videomaev2-giant-k710": _videomae_v2(
        "mae-g/vit_g_hybrid_pt_1200e_k710_ft",
        "Kinetics/videomaev2_giant_16x4_k710.yaml",
        "fine-tuned on Kinetics-710 after pre-training on UnlabeledHybrid",
        "Kinetics-710: 83.8 top-1",
        "kinetics710",
    ),
    "mae-st-large-k400": _mae_st("large", "400", "Kinetics-400 after fine-tuning: 84.8 top-1"),
    "mae-st-large-k600": _mae_st("large", "600"),
    "mae-st-large-k700": _mae_st("large", "700"),
    "mae-st-huge-k400": _mae_st("huge", "400", "Kinetics-400 after fine-tuning: 85.1 top-1"),
    "mae-st-huge-k600": _mae_st("huge", "600"),
    "mae-st-huge-k700": _mae_st("huge", "700"),
    "mae-image-base": _image_mae("base", "ImageNet-1k after fine-tuning: 83.6 top-1"),
    "mae-image-large": _image_mae("large", "ImageNet-1k after fine-tuning: 85.9 top-1"),
    # Any plain vision transformer of timm works without an entry.
    "timm:vit_base_patch16_224.augreg_in21k": Weights(
        "https://huggingface.co/timm/vit_base_patch16_224.augreg_in21k/resolve/main/model.safetensors",
        None,
        "Kinetics/image_vit_base_16x4_finetune.yaml",
        "supervised on images of ImageNet-21k",
        "Apache-2.0",
    ),
    "vjepa2-large": _vjepa2("l", 256, "AVA/vjepa2_large_16x4.yaml"),
    "vjepa2-huge": _vjepa2("h", 256, "AVA/vjepa2_huge_16x4.yaml"),
    "vjepa2-giant": _vjepa2("g", 256, "AVA/vjepa2_giant_16x4.yaml"),
    "vjepa2-giant-384": _vjepa2("g", 384, "AVA/vjepa2_giant_16x4.yaml"),
    "vjepa21-base": _vjepa21("vitb_dist_vitG", "AVA/vjepa21_base_16x4.yaml", ", distilled from ViT-G"),
    "vjepa21-large": _vjepa21("vitl_dist_vitG", "AVA/vjepa21_large_16x4.yaml", ", distilled from ViT-G"),
    "vjepa21-giant": _vjepa21("vitg", "AVA/vjepa21_giant_16x4.yaml", ""),
    "vjepa21-gigantic": _vjepa21("vitG", "AVA/vjepa21_gigantic_16x4.yaml", ""),
    "hiera-base": _hiera("base"),
    "hiera-base-plus": _hiera("base_plus"),
    "hiera-large": _hiera("large"),
    "hiera-huge": _hiera("huge"),
    "hiera-base-finetuned-kinetics": _hiera("base", "Kinetics-400: 84.0 top-1"),
    "hiera-base-plus-finetuned-kinetics": _hiera("base_plus", "Kinetics-400: 85.0 top-1"),
    "hiera-large-finetuned-kinetics": _hiera("large", "Kinetics-400: 87.3 top-1"),
    "hiera-huge-finetuned-kinetics": _hiera("huge", "Kinetics-400: 87.8 top-1"),
}


def get_weights(name: str) -> Weights:
    """Return published weights by name.

    Raises:
        ConfigError: there are none with this name.
    """
    if name not in WEIGHTS:
        raise ConfigError(f"{name}: no such weights in the model zoo{did_you_mean(name, WEIGHTS)}")
    return WEIGHTS[name]
