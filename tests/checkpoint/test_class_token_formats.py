"""Published models with a class token: MAE-ST and image ViTs, compared with computations of their own."""

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from published_files import (
    CLASSES,
    CUBE,
    DECODER_WIDTH,
    IMAGE_MAE,
    MAE_ST,
    MAE_ST_CLASSIFIER,
    MAE_ST_ENCODER,
    PUBLISHED,
    UMT,
    WIDTH,
    blocks,
    fused_block,
    image_block,
    mae_st_block,
    tensors,
)

from vmae_det import model_zoo
from vmae_det.checkpoint import load_weights, locate, read_checkpoint, timm_models
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.checkpoint.loading import config_keys_from_shapes
from vmae_det.checkpoint.published_formats import part_of
from vmae_det.checkpoint.rename_parameters import inflate_image_weights, rename_from_published
from vmae_det.checkpoint.stored_config import compare_configs, stored_config
from vmae_det.engine.inspection import empty_model
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError, WeightsError

CLASS_TOKEN = ("MODEL.BACKBONE.CLASS_TOKEN", True)


@pytest.fixture
def model(tiny_cfg):
    opts = ("MODEL.CLASSIFIER.NUM_CLASSES", CLASSES, "MODEL.BACKBONE.POSITIONS", "flat")
    return lambda task, *more: build_model(tiny_cfg(task, *opts, *more)).eval()


def clip(frames=4):
    return torch.randn(1, 3, frames, 64, 64, generator=torch.Generator().manual_seed(1))


def mae_st_tokens(weights, video):
    """The tokens before the last norm, as models_vit.py computes them with 2 heads."""
    x = F.conv3d(video, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], (2, 16, 16))
    x = torch.cat([weights["cls_token"], x.flatten(2).mT], dim=1)
    positions = weights["pos_embed_spatial"].repeat(1, 2, 1)
    positions = positions + weights["pos_embed_temporal"].repeat_interleave(16, dim=1)
    x = x + torch.cat([weights["pos_embed_class"], positions], dim=1)
    for n in range(2):
        block = {
            name.removeprefix(f"blocks.{n}."): value
            for name, value in weights.items()
            if name.startswith(f"blocks.{n}.")
        }

        def linear(name, x, block=block):
            return F.linear(x, block[f"{name}.weight"], block[f"{name}.bias"])

        def norm(name, x, block=block):
            return F.layer_norm(x, (WIDTH,), block[f"{name}.weight"], block[f"{name}.bias"], 1e-6)

        normed = norm("norm1", x)
        heads = [linear(f"attn.{part}", normed).unflatten(2, (2, -1)).transpose(1, 2) for part in "qkv"]
        attention = (heads[0] @ heads[1].mT * (WIDTH // 2) ** -0.5).softmax(-1)
        x = x + linear("attn.proj", (attention @ heads[2]).transpose(1, 2).flatten(2))
        x = x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))
    return x[:, 1:]


def small(shapes):
    return {name: value * 0.3 for name, value in tensors(shapes).items()}


def test_mae_st_computes_what_the_authors_code_does(model):
    theirs, video = small(MAE_ST), clip()
    ours = model("pretrain", *CLASS_TOKEN)
    report = load_weights(ours, {"model_state": theirs})
    assert report.format == "MAE-ST"
    assert all(not name.startswith("backbone.") for name in report.missing)
    expected = F.layer_norm(
        mae_st_tokens(theirs, video), (WIDTH,), theirs["norm.weight"], theirs["norm.bias"]
    )
    torch.testing.assert_close(ours.backbone(video), expected, rtol=1e-4, atol=1e-4)

    theirs = small(MAE_ST_CLASSIFIER)
    ours = model("finetune", *CLASS_TOKEN)
    report = load_weights(ours, {"model": theirs})
    assert (report.format, report.missing, report.unused) == ("MAE-ST classification", (), ())
    mean = mae_st_tokens(theirs, video).mean(1)
    mean = F.layer_norm(mean, (WIDTH,), theirs["norm.weight"], theirs["norm.bias"])
    expected = F.linear(mean, theirs["head.weight"], theirs["head.bias"])
    torch.testing.assert_close(ours.logits(video), expected, rtol=1e-4, atol=1e-4)


def test_the_weights_are_saved_and_loaded_again(model):
    first, second = (model("pretrain", *CLASS_TOKEN, "SEED", seed) for seed in (1, 2))
    load_weights(first, tensors(MAE_ST))
    load_weights(second, first.state_dict())
    assert torch.equal(first.backbone(clip()), second.backbone(clip()))


def test_a_table_that_fits_two_grids_is_a_warning(model, caplog):
    """32 rows: 2 times 4 x 4, or 8 times 2 x 2, of a clip of 16 frames of 32 x 32 pixels."""
    load_weights(model("pretrain", *CLASS_TOKEN), tensors(MAE_ST))
    assert not caplog.text
    load_weights(model("pretrain", *CLASS_TOKEN, "INPUT.NUM_FRAMES", 16), tensors(MAE_ST))
    assert "interpreted as (8, 2, 2) (time, height, width); if they are (2, 4, 4)" in caplog.text


WRONG = [
    ({"cls_token": (1, 2, WIDTH)}, "one class token .* got 2"),
    ({"cls_token": (WIDTH,)}, r"cls_token: expected \(1, N, C\), got \(24,\)"),
    ({"pos_embed_spatial": (1, 16, 8)}, r"pos_embed_spatial: expected \(1, N, 24\), got \(1, 16, 8\)"),
    ({"pos_embed_spatial": (1, 15, WIDTH)}, r"backbone\.positions: a table \(30, 24\)"),
    ({"pos_embed_temporal": (1, 1 << 15, WIDTH)}, "a position table of 524288 tokens"),
    ({"pos_embed_temporal": None}, "pos_embed_temporal is not in the file"),
    ({"pos_embed_class": None}, "pos_embed_class is not in the file"),
    ({"blocks.1.attn.k.bias": (8,)}, r"attn\.qkv\.bias is not in the file"),
]


@pytest.mark.parametrize(("change", "expected"), WRONG)
def test_wrong_sizes_of_mae_st_are_named(model, change, expected):
    shapes = {name: shape for name, shape in (MAE_ST | change).items() if shape}
    with pytest.raises(WeightsError, match=expected):
        load_weights(model("pretrain", *CLASS_TOKEN), tensors(shapes), where="file.pth")


def test_a_config_without_the_class_token_is_refused(model):
    with pytest.raises(WeightsError, match="CLASS_TOKEN is True in the file, False in the config"):
        load_weights(model("pretrain"), tensors(MAE_ST))
    no_token = model("pretrain").state_dict()
    with pytest.raises(WeightsError, match="CLASS_TOKEN is False in the file, True in the config"):
        load_weights(model("pretrain", *CLASS_TOKEN), no_token)


def test_other_formats_cannot_store_a_class_token(tmp_path):
    torch.save({"model_state": tensors(MAE_ST)}, tmp_path / "mae_st.pth")
    with pytest.raises(WeightsError, match="videomae format cannot express this model: it has a class token"):
        convert_weights(tmp_path / "mae_st.pth", tmp_path / "out.pth", "videomae")
    convert_weights(tmp_path / "mae_st.pth", tmp_path / "out.pth", "vmae_det")
    ours = read_checkpoint(tmp_path / "out.pth")["model"]
    assert ours["backbone.class_token"].shape == (WIDTH,)
    assert config_keys_from_shapes(ours)["MODEL.BACKBONE.CLASS_TOKEN"]


def test_umt_loads_as_videomae_with_one_frame_per_token(model):
    theirs = tensors(UMT)
    ours = model("detect", "MODEL.BACKBONE.TUBELET_SIZE", 1, "INPUT.NUM_FRAMES", 2)
    report = load_weights(ours, {"model": theirs}, backbone_only=True)
    assert report.format == "VideoMAE pre-training"
    assert all(name.startswith("roi_head.") for name in report.missing)
    assert torch.equal(ours.backbone.norm.weight, theirs["encoder.norm.weight"])
    with pytest.raises(WeightsError, match=r"TUBELET_SIZE is 1 in the file, 2 in the config"):
        load_weights(model("detect"), theirs, backbone_only=True)


FINETUNED = (PUBLISHED["videomae", "finetune"][2], "blocks", fused_block)
FULL_SIZE = {
    "mae-st-huge-k600": (MAE_ST_ENCODER, "blocks", mae_st_block),
    "mae-image-large": (IMAGE_MAE, "blocks", image_block),
    "timm:vit_base_patch16_224.augreg_in21k": (IMAGE_MAE, "blocks", image_block),
    "umt-large": (UMT, "encoder.blocks", fused_block),
    "umt-base-finetuned-kinetics": FINETUNED,
    "videomaev2-small-k710": FINETUNED,
    "videomaev2-giant-k710": FINETUNED,
    "videomaev2-giant": (PUBLISHED["videomae", "pretrain"][2], "encoder.blocks", fused_block),
}


def full_size(name, shape, cfg):
    """The shape of a parameter outside of the blocks of the encoder."""
    node, cells = cfg.MODEL.BACKBONE, (cfg.INPUT.CROP_SIZE // cfg.MODEL.BACKBONE.PATCH_SIZE) ** 2
    if name == "pos_embed_spatial":
        return 1, cells, node.EMBED_DIM
    if name == "pos_embed_temporal":
        return 1, cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE, node.EMBED_DIM
    if name == "pos_embed":
        return 1, 1 + cells, node.EMBED_DIM
    if len(shape) > 3:
        return node.EMBED_DIM, 3, *[node.TUBELET_SIZE] * (len(shape) - 4), node.PATCH_SIZE, node.PATCH_SIZE
    sizes = {WIDTH: node.EMBED_DIM, CUBE: 3 * node.TUBELET_SIZE * node.PATCH_SIZE**2}
    sizes |= {CLASSES: cfg.MODEL.CLASSIFIER.NUM_CLASSES, DECODER_WIDTH: cfg.MODEL.DECODER.EMBED_DIM}
    return tuple(sizes.get(side, side) for side in shape)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_file_of_full_size_fits_the_config(name):
    cfg = model_zoo.get_config(model_zoo.get_weights(name).config)
    shapes, prefix, block = FULL_SIZE[name]
    node, decoder = cfg.MODEL.BACKBONE, cfg.MODEL.DECODER
    full = {key: full_size(key, shape, cfg) for key, shape in shapes.items() if "blocks." not in key}
    full |= blocks(prefix, block, node.DEPTH, node.EMBED_DIM)
    if "decoder.norm.weight" in shapes:
        full |= blocks("decoder.blocks", fused_block, decoder.DEPTH, decoder.EMBED_DIM)
    hidden = {4 * node.EMBED_DIM: int(node.EMBED_DIM * node.MLP_RATIO)}
    for key in full:
        if f"{prefix}." in key and ".mlp." in key:
            full[key] = tuple(hidden.get(side, side) for side in full[key])
    renamed = rename_from_published({key: torch.empty(shape, device="meta") for key, shape in full.items()})
    slices = cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE
    weights, _ = inflate_image_weights(renamed.weights, node.TUBELET_SIZE, slices * node.CLASS_TOKEN)
    got = {key: tuple(value.shape) for key, value in weights.items()}
    cells = (cfg.INPUT.CROP_SIZE // node.PATCH_SIZE) ** 2
    assert got.pop("backbone.positions", (slices * cells, node.EMBED_DIM)) == (slices * cells, node.EMBED_DIM)
    expected = {key: tuple(value.shape) for key, value in empty_model(cfg).state_dict().items()}
    parts = {part_of(key) for key in got}
    expected = {key: shape for key, shape in expected.items() if part_of(key) in parts}
    assert {key: shape for key, shape in got.items() if not key.startswith("backbone.norm.")} == {
        key: shape for key, shape in expected.items() if not key.startswith("backbone.norm.")
    }


# ---------------------------------------------------------------- image models


def test_without_the_key_an_image_model_loads_as_before(model):
    theirs = tensors(IMAGE_MAE)
    ours = model("detect")
    computed = ours.backbone.positions.clone()
    report = load_weights(ours, {"model": theirs}, backbone_only=True)
    assert report.unused == ("cls_token", "pos_embed")
    assert torch.equal(ours.backbone.positions, computed)


def test_parameters_that_an_image_model_may_not_have(model):
    for name, shape in (
        ("reg_token", (1, 4, WIDTH)),
        ("norm_pre.weight", (WIDTH,)),
        ("pos_embed", (1, 18, WIDTH)),
    ):
        with pytest.raises(WeightsError, match=r"is not in the model|at most one position"):
            load_weights(
                model("detect", *CLASS_TOKEN), tensors(IMAGE_MAE | {name: shape}), backbone_only=True
            )
    bare = {name: value for name, value in tensors(IMAGE_MAE).items() if name != "pos_embed"}
    with pytest.raises(WeightsError, match="pos_embed is not in the file"):
        load_weights(model("detect", *CLASS_TOKEN), bare)


NAME = "vit_small_patch16_224.augreg_in21k"


@pytest.fixture
def timm_hub(tmp_path, monkeypatch):
    """A ViT of timm with small sizes, which `timm:NAME` finds on the hub without a network."""
    create = timm.create_model
    sizes = {"embed_dim": WIDTH, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 3}

    def create_small(name, pretrained=False, **options):
        return create(name, pretrained=pretrained, **(options | sizes if name == NAME else options))

    monkeypatch.setattr(timm, "create_model", create_small)
    timm_models._plain_vit.cache_clear()
    vit = create_small(NAME).eval()
    generator = torch.Generator().manual_seed(0)
    for value in vit.parameters():
        value.data.normal_(std=0.3, generator=generator)
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "vit_small_patch16_224"}')
    requests = []
    monkeypatch.setattr(locate, "download_from_hub", lambda hub: requests.append(str(hub)) or tmp_path)
    yield vit, requests
    timm_models._plain_vit.cache_clear()


def test_a_vit_of_timm_has_the_tokens_of_the_image(model, timm_hub):
    """For a still clip of one time slice. Of several, each slice has the table of the image."""
    vit, requests = timm_hub
    ours = model("detect", *CLASS_TOKEN, "INPUT.NUM_FRAMES", 2)
    report = load_weights(ours, f"timm:{NAME}", backbone_only=True)
    assert requests == [f"timm/{NAME}"]
    assert report.format == "image MAE"
    assert {"backbone.class_token", "backbone.positions"} <= set(report.loaded)
    image = clip(1)[:, :, 0]
    with torch.no_grad():
        expected = vit.forward_features(image)[:, 1:]
        tokens = ours.backbone(image[:, :, None].repeat(1, 1, 2, 1, 1))
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1
    longer = model("detect", *CLASS_TOKEN)
    load_weights(longer, f"timm:{NAME}", backbone_only=True)
    assert torch.equal(longer.backbone.positions, ours.backbone.positions.repeat(2, 1))


@pytest.mark.usefixtures("timm_hub")
def test_a_converted_vit_of_timm_keeps_its_class_token(model, tmp_path):
    report = convert_weights(f"timm:{NAME}", tmp_path / "ours.pth", "vmae_det")
    assert not {"cls_token", "pos_embed"} & set(report.dropped)
    with pytest.raises(WeightsError, match="videomae format cannot express this model: it has a class token"):
        convert_weights(f"timm:{NAME}", tmp_path / "theirs.pth", "videomae")
    direct, converted = (model("detect", *CLASS_TOKEN, "INPUT.NUM_FRAMES", 16) for _ in range(2))
    load_weights(direct, f"timm:{NAME}", backbone_only=True)
    load_weights(converted, tmp_path / "ours.pth", backbone_only=True)
    expected = direct.backbone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in converted.backbone.state_dict().items())


@pytest.mark.usefixtures("timm_hub")
def test_the_config_of_a_vit_of_timm_is_checked(tiny_cfg):
    content = read_checkpoint(f"timm:{NAME}")
    cfg = tiny_cfg("detect", *CLASS_TOKEN, "MODEL.BACKBONE.CHECKPOINT", f"timm:{NAME}")
    stored = stored_config(content, f"timm:{NAME}")
    assert stored.MODEL.PIXEL_MEAN == (127.5, 127.5, 127.5)
    report = load_weights(build_model(cfg), content, backbone_only=True)
    compare_configs(cfg, content, "it", report, complete=False)
    for key, value in (("CLASS_TOKEN", False), ("NUM_HEADS", 3)):
        other = tiny_cfg("detect", *CLASS_TOKEN, f"MODEL.BACKBONE.{key}", value)
        report = load_weights(build_model(other), content, backbone_only=True)
        with pytest.raises(ConfigError, match=rf"{key}: {value}, but it was trained with"):
            compare_configs(other, content, "it", report, complete=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224.augreg_in21", "no weights of this name; did you mean"),
        ("vit_small_patch14_dinov2.lvd142m", r"it has blocks\.N\.ls1\.gamma"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", "reg_token"),
        ("vit_base_patch16_clip_224.openai", r"norm_pre\.bias"),
        ("deit_tiny_distilled_patch16_224.fb_in1k", "the class VisionTransformerDistilled"),
        ("vit_base_patch16_224_miil.in21k", r"no blocks\.N\.attn\.qkv\.bias"),
    ],
)
def test_other_networks_of_timm_are_refused(name, expected):
    with pytest.raises(WeightsError, match=f"timm:{name}: .*{expected}"):
        timm_models.hub_name(f"timm:{name}")
