"""Every published format: read, converted to every other format and back without changing a bit."""

import itertools

import pytest
import safetensors.torch
import torch
from published_files import (
    ACTIONS,
    CLASSES,
    IMAGE_MAE,
    PATCH,
    PUBLISHED,
    TOKENS,
    WIDTH,
    norm,
    pair,
    patch_embedding,
    save,
    state_dict,
    tensors,
)

from vmae_det.checkpoint import load_weights, read_checkpoint
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.checkpoint.published_formats import FORMATS
from vmae_det.checkpoint.state_dicts import state_dict_of
from vmae_det.cli.convert import FAMILIES
from vmae_det.cli.main import main
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError

CLASS_KEYS = ("MODEL.CLASSIFIER.NUM_CLASSES", CLASSES, "MODEL.ROI_HEAD.NUM_CLASSES", ACTIONS)


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@pytest.fixture
def model(tiny_cfg):
    return lambda task, *opts: build_model(
        tiny_cfg(task, *CLASS_KEYS, "MODEL.BACKBONE.POSITIONS", "flat", *opts)
    )


@pytest.mark.parametrize(("family", "task"), PUBLISHED)
def test_published_files_load_completely(model, tmp_path, family, task):
    theirs = save(family, task, tmp_path / "theirs.pth")
    ours = model(task)
    report = load_weights(ours, tmp_path / "theirs.pth")
    assert report.format == PUBLISHED[family, task][0]
    assert not report.missing
    background = ("roi_head.background.weight", "roi_head.background.bias")
    assert report.unused == (background if (family, task) == ("mmaction2", "detect") else ())
    largest = {name: value for name, value in theirs.items() if value.numel() > 1000}
    held = {tuple(value.flatten()[:5].tolist()) for value in ours.state_dict().values()}
    for name, value in largest.items():
        start = value if "bbox_head" not in name else value[1:]
        if ".key." not in name and ".value." not in name:  # not at the start of our qkv
            assert tuple(start.flatten()[:5].tolist()) in held, name


@pytest.mark.parametrize(("family", "task"), PUBLISHED)
def test_round_trips_are_exact(tmp_path, family, task):
    theirs = save(family, task, tmp_path / "theirs.pth")
    top = PUBLISHED[family, task][1]
    others = [other for other in (*FAMILIES,) if other == "vmae_det" or (other, task) in PUBLISHED]
    if (family, task) == ("mmaction2", "finetune"):
        others.remove("huggingface")  # has no learned positions: test_format_limits.py
    for other, suffix in itertools.product(others, (".pt", ".safetensors")):
        there = convert_weights(tmp_path / "theirs.pth", tmp_path / f"there{suffix}", other)
        assert not there.dropped
        back = convert_weights(there.output, tmp_path / "back.pth", family)
        assert not back.dropped
        content = torch.load(back.output, weights_only=True)
        assert_equal(content[top] if top else content, theirs)


def test_the_command_offers_all_writable_formats():
    assert set(FAMILIES) == {known.family for known in FORMATS if known.writable}


def test_queries_keys_and_values_are_fused(model):
    theirs = state_dict("huggingface", "finetune")
    ours = model("finetune")
    load_weights(ours, theirs)
    parts = ours.backbone.blocks[1].attn.qkv.weight.chunk(3)
    for part, name in zip(parts, ("query", "key", "value")):
        assert torch.equal(part, theirs[f"videomae.encoder.layer.1.attention.attention.{name}.weight"])
    query, key, value = ours.backbone.blocks[1].attn.qkv.bias.chunk(3)
    assert torch.equal(query, theirs["videomae.encoder.layer.1.attention.attention.q_bias"])
    assert not key.any()
    assert torch.equal(value, theirs["videomae.encoder.layer.1.attention.attention.v_bias"])


def test_bias_names_of_transformers_5_in_memory(model):
    theirs = state_dict("huggingface", "pretrain")
    renamed = {
        name.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias"): value
        for name, value in theirs.items()
    }
    first, second = model("pretrain"), model("pretrain", "SEED", 5)
    load_weights(first, theirs)
    assert not load_weights(second, renamed).missing
    assert_equal(second.state_dict(), first.state_dict())


def test_a_wrapped_state_dict(model):
    """DistributedDataParallel adds the prefix `module.`, VideoMAE V2 on the hub `model.`."""
    theirs = state_dict("videomae", "finetune")
    for prefix in ("module.", "model."):
        report = load_weights(model("finetune"), {prefix + name: value for name, value in theirs.items()})
        assert not report.missing


def test_patches_of_14_pixels(model):
    """As in ViT-g of VideoMAE V2, whose MLP width is not a multiple of its width."""
    theirs = state_dict("videomae", "finetune") | tensors(patch_embedding("patch_embed.proj", 14))
    for n in range(2):
        theirs |= tensors(
            pair(f"blocks.{n}.mlp.fc1", 104, WIDTH) | {f"blocks.{n}.mlp.fc2.weight": (WIDTH, 104)}
        )
    opts = ("MODEL.BACKBONE.PATCH_SIZE", 14, "MODEL.BACKBONE.MLP_RATIO", 48 / 11)
    ours = model("finetune", *opts, "INPUT.CROP_SIZE", 56, "INPUT.TEST_SHORT_SIDE", 56)
    assert not load_weights(ours, theirs).missing
    assert ours.eval().logits(torch.zeros(1, 3, 4, 56, 56)).shape == (1, CLASSES)


def test_image_mae_initializes_a_video_model(model):
    theirs = tensors(IMAGE_MAE)
    ours = model("pretrain")
    report = load_weights(ours, {"model": theirs})
    assert report.format == "image MAE"
    assert {"cls_token", "pos_embed", "decoder_pred.weight"} <= set(report.unused)
    assert {"encoder_to_decoder.weight", "decoder.head.weight"} <= set(report.missing)
    assert torch.equal(ours.backbone.blocks[0].attn.qkv.bias, theirs["blocks.0.attn.qkv.bias"])
    # A still image has the same tokens as in the image model.
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    weight, bias = theirs["patch_embed.proj.weight"], theirs["patch_embed.proj.bias"]
    expected = torch.nn.functional.conv2d(image, weight, bias, stride=PATCH).flatten(2).transpose(1, 2)
    video = image[:, :, None].expand(-1, -1, 4, -1, -1)
    tokens = ours.backbone.patch_embed(ours.backbone.cubes(video)).unflatten(1, (2, 16))
    torch.testing.assert_close(tokens[:, 0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens[:, 1], expected, rtol=1e-4, atol=1e-4)


def test_image_mae_can_be_read_but_not_written(tmp_path):
    torch.save({"model": tensors(IMAGE_MAE)}, tmp_path / "image.pth")
    report = convert_weights(tmp_path / "image.pth", tmp_path / "video.safetensors", "videomae")
    assert report.format == "VideoMAE pre-training"
    assert "backbone.blocks.0.attn.key.bias" in report.dropped
    weights = safetensors.torch.load_file(tmp_path / "video.safetensors")
    assert weights["encoder.patch_embed.proj.weight"].shape == (WIDTH, 3, 2, PATCH, PATCH)
    with pytest.raises(WeightsError, match="can be read, not written"):
        convert_weights(tmp_path / "image.pth", tmp_path / "x.pth", "image-mae")


def test_a_position_table_of_the_same_size_is_loaded(model):
    theirs = state_dict("mmaction2", "finetune")
    ours = model("finetune")
    computed = ours.backbone.positions.clone()
    report = load_weights(ours, theirs)
    assert "backbone.positions" in report.loaded
    assert torch.equal(ours.backbone.positions, theirs["backbone.pos_embed"][0])
    # A learned table is saved and loaded again.
    assert "backbone.positions" in ours.state_dict()
    again = model("detect")
    load_weights(again, ours.state_dict(), backbone_only=True)
    assert torch.equal(again.backbone.positions, ours.backbone.positions)
    # A table equal to the computed one is not saved.
    fixed = model("finetune")
    load_weights(fixed, theirs | {"backbone.pos_embed": computed[None]})
    assert "backbone.positions" not in fixed.state_dict()


def test_a_position_table_of_another_size_is_resized(model):
    theirs = state_dict("mmaction2", "finetune")
    table = torch.zeros(2, 4, 4, WIDTH)
    table[1] = 1
    table[..., 1] = torch.arange(4.0)[:, None]  # increases with the row
    theirs["backbone.pos_embed"] = table.reshape(1, TOKENS, WIDTH)

    wider = model("finetune", "INPUT.CROP_SIZE", 128, "INPUT.TEST_SHORT_SIDE", 128)
    load_weights(wider, theirs)
    grid = wider.backbone.positions.reshape(2, 8, 8, WIDTH)
    assert grid[0, :, :, 0].abs().max() < 1e-6
    assert (grid[1, :, :, 0] - 1).abs().max() < 1e-6
    assert (grid[0, 1:, 0, 1] > grid[0, :-1, 0, 1]).all()
    torch.testing.assert_close(grid[0, :, 0, 1], grid[1, :, 5, 1])

    longer = model("finetune", "INPUT.NUM_FRAMES", 8)
    load_weights(longer, theirs)
    slices = longer.backbone.positions.reshape(4, 16, WIDTH)[:, 0, 0]
    torch.testing.assert_close(slices, torch.tensor([0, 0.25, 0.75, 1]))


def test_a_position_table_that_fits_no_grid(model):
    theirs = state_dict("mmaction2", "finetune")
    for shape in ((1, 33, WIDTH), (1, TOKENS, 8), (TOKENS,)):
        theirs["backbone.pos_embed"] = torch.zeros(shape)
        with pytest.raises(WeightsError, match=r"backbone\.positions.*fits no grid"):
            load_weights(model("finetune"), theirs)


def test_the_background_row_of_an_mmaction2_detector_is_not_loaded(model):
    theirs = state_dict("mmaction2", "detect")
    ours = model("detect")
    load_weights(ours, theirs)
    assert torch.equal(ours.roi_head.classifier.weight, theirs["roi_head.bbox_head.fc_cls.weight"][1:])


def test_dropped_parameters_are_reported(tmp_path, capsys):
    save("videomae", "detect", tmp_path / "detector.pth")
    path, output = str(tmp_path / "detector.pth"), str(tmp_path / "new" / "detector.safetensors")
    assert main(["convert", path, output, "--to", "huggingface"]) == 0
    printed = capsys.readouterr().out
    assert "from VideoMAE action detection to Hugging Face VideoMAE" in printed
    assert "cannot store them: roi_head.classifier.weight, roi_head.classifier.bias" in printed
    assert "videomae.layernorm.weight" in safetensors.torch.load_file(output)


def test_a_key_bias_is_dropped_if_the_format_has_none(model, tmp_path):
    ours = model("finetune")
    torch.nn.init.ones_(ours.backbone.blocks[0].attn.qkv.bias)
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pt")
    report = convert_weights(tmp_path / "ours.pt", tmp_path / "theirs.pth", "videomae")
    assert report.dropped == ("backbone.blocks.0.attn.key.bias",)
    other = model("finetune", "SEED", 3)
    load_weights(other, tmp_path / "theirs.pth")
    video = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(other.eval().logits(video), ours.eval().logits(video), rtol=1e-4, atol=1e-6)


def test_config_and_label_map_stay_with_our_own_files(tiny_cfg, tmp_path):
    content = {"model": build_model(tiny_cfg("detect")).state_dict(), "config": "SEED: 7\n"}
    torch.save(content | {"label_map": {"names": ["wave"], "ids": [3]}}, tmp_path / "ours.pt")
    for suffix in (".safetensors", ".pt"):
        convert_weights(tmp_path / "ours.pt", tmp_path / f"copy{suffix}", "vmae_det")
        copy = read_checkpoint(tmp_path / f"copy{suffix}")
        assert copy["config"] == "SEED: 7\n"
        assert copy["label_map"] == {"names": ["wave"], "ids": [3]}
        assert_equal(state_dict_of(copy), content["model"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (pair("head", CLASSES + 1, WIDTH), r"head\.weight is \(6, 24\) in the file, \(5, 24\) in the model"),
        (norm("blocks.1.norm1", 32), r"backbone\.blocks\.1\.norm1\.weight is \(32,\) in the file"),
        ({"blocks.0.attn.qkv.weight": (70, WIDTH)}, r"qkv\.weight is \(70, 24\)"),
        ({"blocks.2.norm1.weight": (WIDTH,)}, r"blocks\.2\.norm1\.weight is not in the model"),
    ],
)
def test_another_size_is_refused(model, change, expected):
    with pytest.raises(WeightsError, match=expected):
        load_weights(model("finetune"), state_dict("videomae", "finetune") | tensors(change))


def test_tensors_of_other_kinds_are_refused(model):
    theirs = state_dict("videomae", "finetune")
    name = "blocks.0.mlp.fc1.weight"
    kinds = {
        "is torch.int8, expected torch.float32": theirs[name].to(torch.int8),
        "is a tensor with layout torch.sparse_coo": theirs[name].to_sparse(),
        "is a meta tensor": theirs[name].to("meta"),
        "is a quantized tensor": torch.quantize_per_tensor(theirs[name], 0.1, 0, torch.qint8),
    }
    for expected, tensor in kinds.items():
        with pytest.raises(WeightsError, match=rf"mlp\.fc1\.weight {expected}"):
            load_weights(model("finetune"), theirs | {name: tensor})
    half = {key: value.half() for key, value in theirs.items()}
    ours = model("finetune")
    load_weights(ours, half)
    assert ours.head.weight.dtype == torch.float32
