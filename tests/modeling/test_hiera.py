"""Backbone Hiera: the outputs of its package for frames of any size, and what a user meets."""

import sys
import warnings

import pytest
import torch

from vmae_det.checkpoint import load_weights
from vmae_det.config import get_cfg
from vmae_det.engine.auto_network import network_of
from vmae_det.engine.inspection import count, count_flops, count_tokens, empty_model
from vmae_det.modeling import build_model
from vmae_det.modeling.backbones.position_embedding import resize_positions
from vmae_det.modeling.features import video_features
from vmae_det.solver import parameter_groups
from vmae_det.utils.errors import ConfigError, WeightsError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it imports timm.models.layers
    package = pytest.importorskip("hiera", reason="needs hiera-transformer (pip install vmae_det[hiera])")

STAGES = (1, 1, 2, 1)


def hiera_cfg(architecture="ActionDetector", *overrides):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", architecture, "MODEL.BACKBONE.NAME", "Hiera"),
            *("MODEL.BACKBONE.EMBED_DIM", 64, "MODEL.BACKBONE.NUM_HEADS", 8, "MODEL.BACKBONE.PATCH_SIZE", 32),
            *("MODEL.BACKBONE.DEPTH", sum(STAGES), "MODEL.BACKBONE.STAGES", STAGES),
            *("MODEL.PIXEL_MEAN", (114.75,) * 3, "MODEL.PIXEL_STD", (57.375,) * 3),
            *("INPUT.NUM_FRAMES", 4, "INPUT.CROP_SIZE", 64, "MODEL.ROI_HEAD.NUM_CLASSES", 3),
            *("MODEL.CLASSIFIER.NUM_CLASSES", 3, *overrides),
        ]
    )
    return cfg


def published(height, width, num_classes=3):
    """The network of the package for clips of one size, with random weights."""
    sizes = {"mask_unit_size": (1, 8, 8), "patch_kernel": (3, 7, 7), "patch_stride": (2, 4, 4)}
    return package.Hiera(
        input_size=(4, height, width),
        num_classes=num_classes,
        head_init_scale=1.0,
        embed_dim=8,
        stages=STAGES,
        q_stride=(1, 2, 2),
        patch_padding=(1, 3, 3),
        sep_pos_embed=True,
        **sizes,
    ).eval()


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@torch.no_grad()
def test_tokens_are_those_of_the_package_built_for_the_size(size):
    backbone = build_model(hiera_cfg()).backbone.eval()
    state, expected = backbone.state_dict(), published(*size)
    table = state["pos_embed_spatial"][0]
    grid = (1, size[0] // 4, size[1] // 4)
    state["pos_embed_spatial"] = resize_positions(table, (1, 16, 16), grid)[None]
    assert expected.load_state_dict(state, strict=False).unexpected_keys == []
    video = torch.randn(2, 3, 4, *size)
    last_map = expected(video, return_intermediates=True)[1][-1]  # (B, t, h, w, C)
    assert last_map.shape[1:4] == backbone.grid(video)
    torch.testing.assert_close(backbone(video), expected.norm(last_map).flatten(1, 3), atol=1e-4, rtol=1e-4)


def test_layers_and_weight_decay():
    model = build_model(hiera_cfg())
    rates = {}
    for group in parameter_groups(model, 0.05, 0.5):
        rates |= dict.fromkeys(group["names"], (group["lr_scale"], group["weight_decay"]))
    assert rates["backbone.pos_embed_spatial"] == (0.5**6, 0.0)
    assert rates["backbone.patch_embed.proj.weight"] == (0.5**6, 0.05)
    assert rates["backbone.blocks.4.attn.qkv.weight"] == (0.5, 0.05)
    assert rates["backbone.norm.weight"] == (1, 0.0)


def test_activation_checkpointing_and_drop_path():
    losses = []
    for recompute in (False, True):
        cfg = hiera_cfg("VideoClassifier", "MODEL.ACTIVATION_CHECKPOINTING", recompute)
        cfg.MODEL.BACKBONE.DROP_PATH = 0.5
        model = build_model(cfg).train()
        torch.manual_seed(0)
        loss = model.logits(torch.ones(4, 3, 4, 64, 64)).sum()
        loss.backward()
        losses.append((loss.detach(), model.backbone.blocks[0].attn.qkv.weight.grad))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.BACKBONE.PATCH_SIZE", 16), "MODEL.BACKBONE.PATCH_SIZE: the tokens of Hiera need 32, got 16"),
        (("MODEL.BACKBONE.TUBELET_SIZE", 1), "TUBELET_SIZE: the tokens of Hiera need 2, got 1"),
        (("MODEL.BACKBONE.STAGES", (2, 3)), "Hiera needs the numbers of blocks of 4 stages"),
        (("MODEL.BACKBONE.DEPTH", 12), r"DEPTH: 12, but MODEL.BACKBONE.STAGES \[1, 1, 2, 1\] have 5 blocks"),
        (("MODEL.BACKBONE.CLASS_TOKEN", True), "CLASS_TOKEN: True, but Hiera has no class token"),
        (("MODEL.BACKBONE.NUM_HEADS", 4), "NUM_HEADS: 4 of the last stage of Hiera is not divisible by 8"),
    ],
)
def test_keys_that_describe_no_hiera(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_model(hiera_cfg("ActionDetector", *overrides))


def test_masked_pre_training_is_refused():
    with pytest.raises(ConfigError, match="Hiera cannot encode a part of the tokens"):
        build_model(hiera_cfg("MaskedAutoencoder", "MODEL.MASK.TYPE", "tube", "MODEL.MASK.RATIO", 0.5))


def test_features_of_blocks_are_refused():
    with pytest.raises(ConfigError, match="the blocks of Hiera have tokens of different widths"):
        video_features(build_model(hiera_cfg()), torch.zeros(1, 3, 4, 64, 64), "blocks")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "hiera", None)
    with pytest.raises(ConfigError, match=r"needs the package hiera-transformer .*pip install") as error:
        build_model(hiera_cfg())
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- weights


@torch.no_grad()
def test_a_published_classifier_has_the_scores_of_the_package(tmp_path):
    expected, file = published(64, 64), tmp_path / "hiera.pth"
    torch.save({"model_state": expected.state_dict(), "epoch": 1}, file)
    model = build_model(hiera_cfg("VideoClassifier")).eval()
    report = load_weights(model, file)
    assert report.format == "Hiera"
    assert report.missing == report.unused == ()
    video = torch.randn(2, 3, 4, 64, 64)
    torch.testing.assert_close(model.logits(video).softmax(1), expected(video), atol=1e-4, rtol=1e-4)
    keys = {key.removeprefix("MODEL.BACKBONE."): value for key, value in network_of(str(file)).items()}
    assert (keys["NAME"], keys["EMBED_DIM"], keys["DEPTH"], keys["STAGES"]) == ("Hiera", 64, 5, STAGES)
    assert (keys["PATCH_SIZE"], keys["TUBELET_SIZE"], keys["MLP_RATIO"]) == (32, 2, 4.0)


@torch.no_grad()
def test_positions_of_another_clip_size_are_resized():
    expected = published(64, 64)
    model = build_model(hiera_cfg("ActionDetector", "INPUT.CROP_SIZE", 96, "INPUT.NUM_FRAMES", 8))
    report = load_weights(model, expected.state_dict(), backbone_only=True)
    assert all(name.startswith("backbone.norm.") for name in report.missing if name.startswith("backbone."))
    space = resize_positions(expected.pos_embed_spatial[0], (1, 16, 16), (1, 24, 24))
    torch.testing.assert_close(model.backbone.pos_embed_spatial[0], space)
    time = expected.pos_embed_temporal[0]  # 2 slices become 4
    torch.testing.assert_close(model.backbone.pos_embed_temporal[0, [0, 3]], time)


def test_weights_of_pre_training_load_without_their_decoder():
    state = published(64, 64).state_dict()
    encoder = {name: value for name, value in state.items() if not name.startswith(("norm.", "head."))}
    decoder = {"mask_token": torch.zeros(1, 1, 8), "encoder_norm.weight": torch.ones(64)}
    report = load_weights(build_model(hiera_cfg("VideoClassifier")), encoder | decoder)
    assert set(report.unused) == set(decoder)
    assert {name.partition(".")[0] for name in report.missing} == {"fc_norm", "head"}


def test_weights_of_another_network_are_refused():
    state = published(64, 64).state_dict()
    deeper = hiera_cfg("VideoClassifier", "MODEL.BACKBONE.STAGES", (1, 2, 2, 1), "MODEL.BACKBONE.DEPTH", 6)
    expected = r"MODEL.BACKBONE.STAGES is \(1, 1, 2, 1\) in the file, \(1, 2, 2, 1\) in the config"
    with pytest.raises(WeightsError, match=expected):
        load_weights(build_model(deeper), state)
    vit = hiera_cfg("VideoClassifier", "MODEL.BACKBONE.NAME", "VideoViT")
    with pytest.raises(WeightsError, match=r"Hiera weights, which need MODEL.BACKBONE.NAME Hiera, got"):
        load_weights(build_model(vit), state)
    image = state | {"patch_embed.proj.weight": state["patch_embed.proj.weight"][:, :, 0]}
    with pytest.raises(WeightsError, match="an image model of Hiera; expected a video model"):
        load_weights(build_model(hiera_cfg("VideoClassifier")), image)
    doubled = state | {"pos_embed_temporal": state["pos_embed_temporal"].repeat(2, 1, 1)}
    with pytest.raises(WeightsError, match=r"pos_embed_temporal is \(2, 2, 8\) in the file, \(1, 2, 8\) in"):
        load_weights(build_model(hiera_cfg("VideoClassifier")), doubled)


def test_flops_and_parameters():
    cfg = hiera_cfg("VideoClassifier")
    tokens = count_tokens(cfg)
    assert tokens.grid == (2, 2, 2)
    assert count(empty_model(cfg)) == sum(p.numel() for p in published(64, 64).parameters())
    patches, widths = (512, 128, 32, 8), (8, 16, 32, 64)  # of the stages
    expected = 512 * 8 * 3 * 3 * 7 * 7 + 3 * 64 + 5 * 64  # patch embedding, head, last norm
    for stage, (n, c, depth) in enumerate(zip(patches, widths, STAGES)):
        for index in range(depth):
            pools = stage > 0 and index == 0
            inputs, width = (n * 4, c // 2) if pools else (n, c)
            keys = (64 >> 2 * (stage - pools)) if stage - pools < 2 else inputs  # of a query
            expected += inputs * width * 3 * c + 9 * n * c * c  # qkv, projection, MLP
            expected += pools * inputs * width * c + 2 * n * keys * c  # shortcut, attention
            expected += 5 * (inputs * width + n * c)  # norms
    assert count_flops(cfg, tokens) == pytest.approx(expected, rel=1e-3)
