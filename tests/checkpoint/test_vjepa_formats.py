"""Files of V-JEPA 2 and 2.1, of the authors and of Transformers: encoders that fit only their backbones."""

import json

import pytest
import torch
from published_files import PATCH, VJEPA, WIDTH, pair, patch_embedding, state_dict, tensors

from vmae_det.checkpoint import load_weights
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.checkpoint.huggingface_config import read_settings
from vmae_det.checkpoint.published_formats import FORMATS
from vmae_det.checkpoint.stored_config import compare_configs
from vmae_det.config import get_cfg
from vmae_det.engine.auto_network import network_of
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError, WeightsError

BACKBONES = {"V-JEPA 2": "VJepa2ViT", "V-JEPA 2.1": "VJepa21ViT", "Hugging Face V-JEPA 2": "VJepa2ViT"}
FORMAT_PARAMETERS = [pytest.param(name, id=name.replace(" ", "-")) for name in VJEPA]


def config(backbone, architecture="ActionDetector", *opts):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", architecture, "MODEL.BACKBONE.NAME", backbone, "SEED", 3),
            *("MODEL.BACKBONE.EMBED_DIM", WIDTH, "MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("INPUT.CROP_SIZE", 32, "INPUT.NUM_FRAMES", 4, "INPUT.TEST_SHORT_SIDE", 32, *opts),
        ]
    )
    return cfg


def authors_file(name, key):
    """The content of a file of the authors: an encoder under `key`, and other networks."""
    encoder = {f"module.backbone.{key}": value for key, value in tensors(VJEPA[name]).items()}
    predictor = {"module.backbone.predictor_norm.weight": torch.ones(3)}
    keys = ("ema_encoder", "target_encoder", "encoder")
    others = {other: tensors(VJEPA[name], 9) for other in keys[keys.index(key) + 1 :]}
    return {**others, key: encoder, "predictor": predictor, "opt": {"state": {}}, "epoch": 3}


@pytest.mark.parametrize("name", FORMAT_PARAMETERS)
@pytest.mark.parametrize("architecture", ["ActionDetector", "VideoClassifier"])
def test_encoders_load_completely(name, architecture):
    theirs = tensors(VJEPA[name])
    model = build_model(config(BACKBONES[name], architecture))
    report = load_weights(model, theirs)
    assert report.format == name
    assert set(report.loaded) == {key for key in model.state_dict() if key.startswith("backbone.")}
    block = model.backbone.blocks[1].attn
    if name.startswith("Hugging"):
        for parameter in ("weight", "bias"):
            parts = [
                theirs[f"encoder.layer.1.attention.{part}.{parameter}"] for part in ("query", "key", "value")
            ]
            assert torch.equal(getattr(block.qkv, parameter), torch.cat(parts))
    else:
        assert torch.equal(block.qkv.bias, theirs["blocks.1.attn.qkv.bias"])
    if name == "V-JEPA 2.1":
        assert torch.equal(model.backbone.video_mod_embed, theirs["video_mod_embed"])
        if architecture == "ActionDetector":
            assert torch.equal(model.backbone.norm.bias, theirs["norms_block.3.bias"])
        assert {"img_mod_embed", "patch_embed_img.proj.bias", "norms_block.2.bias"} <= set(report.unused)
        assert "not in the model, ignored: " in str(report)


@pytest.mark.parametrize(
    ("name", "key", "is_average"),
    [
        ("V-JEPA 2", "target_encoder", True),
        ("V-JEPA 2", "encoder", False),
        ("V-JEPA 2.1", "ema_encoder", True),
        ("V-JEPA 2.1", "target_encoder", True),
    ],
)
def test_files_of_the_authors(tmp_path, name, key, is_average):
    """The average of the encoder is taken, without the prefixes of its wrappers."""
    content = authors_file(name, key)
    torch.save(content, tmp_path / "theirs.pt")
    model = build_model(config(BACKBONES[name]))
    report = load_weights(model, tmp_path / "theirs.pt")
    assert (report.format, report.source.key, report.source.is_average) == (name, key, is_average)
    weight = content[key]["module.backbone.patch_embed.proj.weight"]
    assert torch.equal(model.backbone.patch_embed.proj.weight, weight)
    assert network_of(str(tmp_path / "theirs.pt")) == {
        "MODEL.BACKBONE.NAME": BACKBONES[name],
        "MODEL.BACKBONE.EMBED_DIM": WIDTH,
        "MODEL.BACKBONE.DEPTH": 2,
        "MODEL.BACKBONE.MLP_RATIO": 4.0,
        "MODEL.BACKBONE.PATCH_SIZE": PATCH,
        "MODEL.BACKBONE.TUBELET_SIZE": 2,
        "MODEL.BACKBONE.CLASS_TOKEN": False,
    }
    # The encoder alone, with the names in the file: not a model of ours, whose names are similar.
    assert load_weights(build_model(config(BACKBONES[name])), content[key]).format == name


@pytest.mark.parametrize("name", FORMAT_PARAMETERS)
def test_another_backbone_is_refused(name):
    """The names and shapes of all three backbones are almost the same."""
    for backbone in {"VideoViT", "VJepa2ViT", "VJepa21ViT"} - {BACKBONES[name]}:
        model = build_model(config(backbone))
        with pytest.raises(
            WeightsError, match=f"need MODEL.BACKBONE.NAME {BACKBONES[name]}, got {backbone}$"
        ):
            load_weights(model, tensors(VJEPA[name]), backbone_only=True)


def test_weights_of_videomae_are_refused():
    model = build_model(config("VJepa2ViT"))
    with pytest.raises(WeightsError, match=r"VideoMAE action detection weights, which need .* VideoViT"):
        load_weights(model, state_dict("videomae", "detect"))


def test_checkpoints_of_ours_name_their_backbone():
    """They have equal names and shapes; the stored config tells them apart."""
    cfg = config("VJepa2ViT")
    content = {"model": build_model(cfg).state_dict(), "config": cfg.dump()}
    other = config("VideoViT")
    report = load_weights(build_model(other), content)
    with pytest.raises(ConfigError, match=r"NAME: 'VideoViT', but x\.pt was trained with 'VJepa2ViT'"):
        compare_configs(other, content, "x.pt", report, complete=False)


def test_a_position_table_is_refused():
    model = build_model(config("VJepa2ViT"))
    with_table = model.state_dict() | {"backbone.positions": torch.zeros(8, WIDTH)}
    with pytest.raises(WeightsError, match="positions: VJepa2ViT has no position table"):
        load_weights(model, with_table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pair("blocks.1.mlp.fc1", 48, WIDTH), "backbone.blocks.1.mlp.fc1.weight is"),
        (patch_embedding("patch_embed.proj", 8), "MODEL.BACKBONE.PATCH_SIZE is 8 in the file, 16 in"),
        (pair("blocks.2.norm1", WIDTH), "MODEL.BACKBONE.DEPTH is 3 in the file, 2 in the config"),
        ({"blocks.0.attn.q_norm.weight": (12,)}, "blocks.0.attn.q_norm.weight has no counterpart"),
        ({"cls_token": (1, 1, WIDTH)}, "class token"),
        ({"pos_embed": (1, 1568, WIDTH)}, "V-JEPA model of 2024, with a position table"),
        (pair("patch_embed.proj", WIDTH, 3, PATCH, PATCH), "an image model without class token"),
    ],
    ids=["width", "patch", "depth", "qk_norm", "class_token", "vjepa_1", "ijepa"],
)
def test_other_networks_are_refused(change, message):
    theirs = tensors(VJEPA["V-JEPA 2"] | change)
    with pytest.raises(WeightsError, match=message):
        load_weights(build_model(config("VJepa2ViT")), theirs)


def test_heads_by_width(caplog):
    cfg = config(
        "VJepa2ViT", "ActionDetector", "MODEL.BACKBONE.EMBED_DIM", 1408, "MODEL.BACKBONE.NUM_HEADS", 16
    )
    report = load_weights(build_model(config("VJepa2ViT")), tensors(VJEPA["V-JEPA 2"]))
    compare_configs(cfg, {}, "vitg.pt", report, complete=False)
    assert "16, but V-JEPA 2 models of width 1408 have 22" in caplog.text
    heads = next(known for known in FORMATS if known.name == "V-JEPA 2").heads_by_width["backbone"]
    assert {width: width // count for width, count in heads.items()} == {
        768: 64, 1024: 64, 1280: 80, 1408: 64, 1664: 64
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "silu"}, "'hidden_act': expected gelu"),
        ({"qkv_bias": False}, "'qkv_bias': expected true"),
        ({"in_chans": 1}, "'in_chans': expected 3"),
    ],
)
def test_config_of_transformers(tmp_path, caplog, fields, message):
    good = {"model_type": "vjepa2", "hidden_size": 1408, "num_attention_heads": 22, "layer_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(good))
    assert read_settings(tmp_path, {}) == {}
    assert not caplog.text
    (tmp_path / "config.json").write_text(json.dumps(good | fields))
    with pytest.raises(WeightsError, match=message):
        read_settings(tmp_path, {})


def test_convert(tmp_path):
    """To our own format, with the config that names the backbone; to no other."""
    torch.save(authors_file("V-JEPA 2.1", "ema_encoder"), tmp_path / "theirs.pt")
    with pytest.raises(WeightsError, match="NAME VJepa21ViT, got VideoViT"):
        convert_weights(tmp_path / "theirs.pt", tmp_path / "ours.pt", "vmae_det")
    cfg = config("VJepa21ViT")
    report = convert_weights(tmp_path / "theirs.pt", tmp_path / "ours.pt", "vmae_det", cfg)
    assert "img_mod_embed" in report.dropped
    assert load_weights(build_model(cfg), tmp_path / "ours.pt").format == "vmae_det"
    for family in ("videomae", "huggingface", "mmaction2"):
        with pytest.raises(WeightsError, match="NAME is VJepa21ViT, expected VideoViT"):
            convert_weights(tmp_path / "ours.pt", tmp_path / "out.pt", family)
    with pytest.raises(WeightsError, match=r"vjepa2 format cannot express|can be read, not written"):
        convert_weights(tmp_path / "ours.pt", tmp_path / "out.pt", "vjepa2")
