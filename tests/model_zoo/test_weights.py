import re

import pytest
import torch

from vmae_det import model_zoo
from vmae_det.checkpoint.loading import config_keys_from_shapes
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError
from vmae_det.video.sampling import sample_keyframe_clip

DOCS = model_zoo.config_folder().parent / "docs"


HUGGING_FACE = [name for name, each in model_zoo.WEIGHTS.items() if "huggingface.co/MCG-NJU/" in each.url]
OF_VIDEOMAE = re.compile(r"(mmaction2-)?videomae-\w+-.*ava")
DETECTORS = [name for name in model_zoo.WEIGHTS if OF_VIDEOMAE.match(name)]


@pytest.mark.parametrize("name", model_zoo.WEIGHTS)
def test_an_entry_is_complete(name):
    weights = model_zoo.get_weights(name)
    assert weights.config in model_zoo.config_names()
    assert bool(weights.url) != bool(weights.page)
    assert (weights.url or weights.page).startswith("https://")
    assert weights.note
    assert weights.license
    assert weights.sha256 is None or re.fullmatch("[0-9a-f]{8,64}", weights.sha256)
    cfg = model_zoo.get_config(weights.config)
    sizes = {
        "VideoClassifier": cfg.MODEL.CLASSIFIER.NUM_CLASSES,
        "ActionDetector": cfg.MODEL.ROI_HEAD.NUM_CLASSES,
    }
    if weights.label_map:
        assert len(LabelMap.builtin(weights.label_map)) == sizes[cfg.MODEL.META_ARCHITECTURE]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_has_the_config_of_its_size(name):
    weights = model_zoo.get_weights(name)
    cfg = model_zoo.get_config(weights.config)
    assert cfg.MODEL.META_ARCHITECTURE == "ActionDetector"
    assert f"vit_{next(size for size in SIZES if size in name)}_" in weights.config
    assert (cfg.INPUT.NUM_FRAMES, cfg.INPUT.SAMPLING_RATE, cfg.INPUT.TEST_SHORT_SIDE) == (16, 4, 256)
    head = cfg.MODEL.ROI_HEAD
    values = (cfg.INPUT.CONVENTION, cfg.MODEL.PIXEL_STD[0], head.ALIGNED, head.RESOLUTION)
    of_mmaction2 = name.startswith("mmaction2-")
    assert values == (("centred", 58.395, True, 8) if of_mmaction2 else ("published", 57.375, False, 7))
    assert head.USE_PERSON_SCORE is not of_mmaction2
    assert weights.result.endswith(" mAP")


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_published_weights_have_a_url_and_a_config(name):
    weights = model_zoo.get_weights(name)
    assert weights.url.startswith(f"https://huggingface.co/MCG-NJU/{name}/resolve/main/")
    assert weights.url.endswith((".safetensors", ".bin"))
    task = model_zoo.get_config(weights.config).MODEL.META_ARCHITECTURE
    assert bool(weights.label_map) == ("finetuned" in name)
    assert task == ("VideoClassifier" if "finetuned" in name else "MaskedAutoencoder")
    size = next((size for size in ("small", "large", "huge") if size in name), "base")
    assert f"vit_{size}_" in weights.config
    assert ("ssv2" in name) == weights.config.startswith("SSv2/")


# Width, number of blocks and heads of the encoder, and of the decoder it was pre-trained with. The values are
# from the config.json of the published models and the authors' modeling_pretrain.py and modeling_finetune.py.
# The config.json of the small models has 16 heads, but the authors' code, which trained them, has 6.
SIZES = {
    "small": ((384, 12, 6), None),
    "base": ((768, 12, 12), (384, 4, 6)),
    "large": ((1024, 24, 16), (512, 12, 8)),
    "huge": ((1280, 32, 16), None),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_each_config_builds_the_network_of_its_weights(name):
    cfg = model_zoo.get_config(model_zoo.get_weights(name).config)
    encoder, decoder = SIZES[next((size for size in SIZES if size in name), "base")]
    with torch.device("meta"):
        model = build_model(cfg)
    keys = config_keys_from_shapes(model.state_dict())
    backbone = cfg.MODEL.BACKBONE
    sizes = [keys[f"MODEL.BACKBONE.{key}"] for key in ("EMBED_DIM", "DEPTH")]
    assert (*sizes, backbone.NUM_HEADS) == encoder
    assert [keys[f"MODEL.BACKBONE.{key}"] for key in ("PATCH_SIZE", "TUBELET_SIZE", "MLP_RATIO")] == [
        16,
        2,
        4,
    ]
    assert (cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE, backbone.POSITIONS) == (16, 224, "flat")
    assert cfg.MODEL.PIXEL_MEAN == (123.675, 116.28, 103.53)
    assert cfg.MODEL.PIXEL_STD == (58.395, 57.12, 57.375)
    if "finetuned" in name:
        assert keys["MODEL.CLASSIFIER.NUM_CLASSES"] == (174 if "ssv2" in name else 400)
    else:
        sizes = [keys[f"MODEL.DECODER.{key}"] for key in ("EMBED_DIM", "DEPTH")]
        assert (*sizes, cfg.MODEL.DECODER.NUM_HEADS) == decoder
        assert cfg.MODEL.RECONSTRUCTION.NORMALIZE
        assert model.decoder.head.out_features == 1536


IMAGENET, HALF = (123.675, 58.395), (127.5, 127.5)  # mean and deviation of red
# Width, blocks, heads, patch size, frames of a token, frames, classes, mean and deviation of red. From the
# code of the authors: unmasked_teacher, VideoMAEv2, mae_st, mae, and timm.
OTHERS = {
    "umt-base": (768, 12, 12, 16, 1, 8, 710, *IMAGENET),
    "umt-large-k710": (1024, 24, 16, 16, 1, 8, 710, *IMAGENET),
    "umt-large-finetuned-kinetics": (1024, 24, 16, 16, 1, 8, 400, *IMAGENET),
    "umt-base-ava": (768, 12, 12, 16, 1, 8, 80, 122.7717, 57.375),
    "umt-large-ava": (1024, 24, 16, 16, 1, 8, 80, 122.7717, 57.375),
    "videomaev2-small-k710": (384, 12, 6, 16, 2, 16, 710, *IMAGENET),
    "videomaev2-base-k710": (768, 12, 12, 16, 2, 16, 710, *IMAGENET),
    "videomaev2-giant-k710": (1408, 40, 16, 14, 2, 16, 710, *IMAGENET),
    "mae-st-large-k400": (1024, 24, 16, 16, 2, 16, 400, 114.75, 57.375),
    "mae-st-huge-k700": (1280, 32, 16, 16, 2, 16, 400, 114.75, 57.375),
    "mae-image-base": (768, 12, 12, 16, 2, 16, 400, *IMAGENET),
    "timm:vit_base_patch16_224.augreg_in21k": (768, 12, 12, 16, 2, 16, 400, *HALF),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_configs_of_other_authors(name):
    cfg = model_zoo.get_config(model_zoo.get_weights(name).config)
    node = cfg.MODEL.BACKBONE
    sizes = node.EMBED_DIM, node.DEPTH, node.NUM_HEADS, node.PATCH_SIZE, node.TUBELET_SIZE
    is_detector = cfg.MODEL.META_ARCHITECTURE == "ActionDetector"
    classes = cfg.MODEL.ROI_HEAD.NUM_CLASSES if is_detector else cfg.MODEL.CLASSIFIER.NUM_CLASSES
    pixels = cfg.MODEL.PIXEL_MEAN[0], cfg.MODEL.PIXEL_STD[0]
    assert (*sizes, cfg.INPUT.NUM_FRAMES, classes, *pixels) == OTHERS[name]
    assert name.startswith(("mae-", "timm:")) == node.CLASS_TOKEN
    if name.startswith("umt-"):
        sampling = cfg.INPUT.SAMPLING_RATE * 8 if is_detector else cfg.INPUT.SAMPLING
        assert sampling == (296 if is_detector else "segments")


def test_umt_takes_8_frames_over_300_around_the_keyframe():
    """Its frames are 18, 56, 93, ... of 300, of which number 150 is the keyframe."""
    node = model_zoo.get_config("AVA/umt_base_8x37.yaml").INPUT
    frames = sample_keyframe_clip(node, 1000, 5000) - 1000
    expected = [int(300 / 16 + number * 300 / 8) - 150 for number in range(8)]
    assert abs(frames - expected).max() <= 2
    node.SAMPLING_RATE = 8  # what its code computes
    assert (sample_keyframe_clip(node, 1000, 5000) - 1000).tolist() == [121 + 8 * n - 150 for n in range(8)]


# Width, blocks, heads, parameters of the backbone in millions. Those of V-JEPA 2.1 B and g are the published
# 86,833,152 and 1,013,267,968, less the parameters for images and the three other norms.
VJEPA = {
    "vjepa2-large": (1024, 24, 16, 303.89),
    "vjepa2-huge": (1280, 32, 16, 631.65),
    "vjepa2-giant": (1408, 40, 22, 1012.17),
    "vjepa21-base": (768, 12, 12, 86.24),
    "vjepa21-large": (1024, 24, 16, 303.89),
    "vjepa21-giant": (1408, 40, 22, 1012.18),
    "vjepa21-gigantic": (1664, 48, 26, 1843.93),
}


@pytest.mark.parametrize("name", VJEPA)
def test_the_configs_of_vjepa_build_its_networks(name):
    weights = model_zoo.get_weights(name)
    assert weights.license == "MIT"
    cfg = model_zoo.get_config(weights.config)
    with torch.device("meta"):
        backbone = build_model(cfg).backbone
    node = cfg.MODEL.BACKBONE
    assert node.NAME == type(backbone).__name__ == ("VJepa21ViT" if "vjepa21" in name else "VJepa2ViT")
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    assert (node.EMBED_DIM, node.DEPTH, node.NUM_HEADS, round(parameters / 1e6, 2)) == VJEPA[name]
    assert name == node.CHECKPOINT
    if DOCS.is_dir():
        page = (DOCS / "results" / "model_zoo.md").read_text(encoding="utf-8")
        assert f"| {parameters / 1e6:.0f} M |" in page


def test_unknown_weights():
    with pytest.raises(ConfigError, match="did you mean 'videomae-base-ssv2'"):
        model_zoo.get_weights("videomae-base-ssv")


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in a clone, not in the installed package")
def test_the_documentation_lists_all_configs_and_weights():
    text = (DOCS / "results" / "model_zoo.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`((?:Kinetics|SSv2|UCF101|HMDB51|AVA)/\w+\.yaml)`", text))
    assert listed == {name for name in model_zoo.config_names() if not name.startswith("Mini")}
    for name, weights in model_zoo.WEIGHTS.items():
        assert f"`{name}`" in text
        assert (weights.url or weights.page) in text
        assert not weights.result or weights.result.removesuffix(" mAP") in text


def test_the_classes_of_umt_are_not_in_alphabetical_order():
    """run_class_finetuning.py of UMT: rows [:400] of the head for Kinetics-710 are those for Kinetics-400."""
    for size in ("base", "large"):
        label_map = LabelMap.builtin(model_zoo.get_weights(f"umt-{size}-finetuned-kinetics").label_map)
        assert label_map.names[:3] == ("riding a bike", "marching", "dodgeball")
