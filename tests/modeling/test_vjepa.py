"""V-JEPA 2 and 2.1: rotary positions against Transformers and against a slow independent computation."""

import math

import pytest
import torch
from torch import nn

from vmae_det.checkpoint import load_weights
from vmae_det.checkpoint.published_formats import FORMATS
from vmae_det.config import get_cfg
from vmae_det.modeling import VideoViT, VJepa2ViT, VJepa21ViT, build_model
from vmae_det.modeling.attention_maps import attention_maps
from vmae_det.utils import cpu
from vmae_det.utils.errors import ConfigError

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "num_frames": 4, "crop_size": 24}
BACKBONES = (VJepa2ViT, VJepa21ViT)


def randomize(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3)
    return module.eval()


def build(backbone=VJepa21ViT, **kwargs):
    return randomize(backbone(**SIZES | kwargs))


# ---------------------------------------------------------------- the description, written out


def slow_angles(grid, head_dim):
    """Return the angle by which V-JEPA 2.1 rotates each pair of channels of each token (N, D / 2)."""
    frames, rows, columns = grid
    pairs = head_dim // 3 // 2  # of an axis
    angles = []
    for token in range(frames * rows * columns):
        frame, cell = divmod(token, rows * columns)
        row, column = divmod(cell, columns)
        for position in (frame, row * 15 / (rows - 1), column * 15 / (columns - 1)):
            angles += [position / math.pow(10000, index / pairs) for index in range(pairs)]
        angles += [0.0] * (head_dim // 2 - 3 * pairs)
    return torch.tensor(angles, dtype=torch.float64).reshape(-1, head_dim // 2)


def rotate_pairs(x, angles):
    """Rotate pairs of channels of queries or keys (N, D), as complex numbers."""
    pairs = torch.view_as_complex(x.unflatten(1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(1)


def slow_encoder(model, video):
    """Return the tokens (N, C) of a video (3, T, H, W): convolution, embedding of "video", blocks, norm."""
    f = torch.nn.functional
    stride = (model.tubelet_size, model.patch_size, model.patch_size)
    conv = model.patch_embed.proj
    x = f.conv3d(video, conv.weight, conv.bias, stride=stride)  # (C, t, h, w)
    angles = slow_angles(x.shape[1:], len(x) // 2)
    x = x.flatten(1).T + model.video_mod_embed[0, 0]
    for block in model.blocks:
        y = f.layer_norm(x, x.shape[1:], block.norm1.weight, block.norm1.bias, eps=1e-6)
        heads = []
        for query, key, value in zip(*(part.chunk(2, 1) for part in block.attn.qkv(y).chunk(3, 1))):
            scores = rotate_pairs(query, angles) @ rotate_pairs(key, angles).T / math.sqrt(query.shape[1])
            heads.append(scores.softmax(dim=1) @ value)
        x = x + block.attn.proj(torch.cat(heads, dim=1))
        y = f.layer_norm(x, x.shape[1:], block.norm2.weight, block.norm2.bias, eps=1e-6)
        x = x + block.mlp.fc2(f.gelu(block.mlp.fc1(y)))
    return f.layer_norm(x, x.shape[1:], model.norm.weight, model.norm.bias, eps=1e-6)


@torch.no_grad()
def test_equals_the_description_on_wide_frames():
    """256 x 352 pixels: 16 rows and 22 columns, both scaled to 0 to 15. Heads have 64 channels."""
    model = build(embed_dim=128, depth=1, mlp_ratio=0.5, patch_size=16, crop_size=256)
    video = torch.randn(3, 4, 256, 352)
    tokens = model(video[None])[0]
    expected = slow_encoder(model.double(), video.double())
    torch.testing.assert_close(tokens.double(), expected, atol=1e-4, rtol=0)


def transformers_model():
    transformers = pytest.importorskip("transformers", reason="an extra of the tests")
    sizes = {"crop_size": 24, "frames_per_clip": 4, "patch_size": 8, "hidden_size": 32}
    predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_hidden_layers": 2}
    return randomize(transformers.VJEPA2Model(transformers.VJEPA2Config(**sizes, **heads, **predictor)))


@torch.no_grad()
def test_equals_transformers_in_both_directions():
    """On square clips, and of more frames than in its config."""
    theirs = transformers_model()
    ours = nn.Module()
    ours.backbone = VJepa2ViT(**SIZES).eval()
    assert load_weights(ours, theirs.state_dict()).format == "Hugging Face V-JEPA 2"
    for _ in range(2):
        video = torch.randn(2, 3, 8, 24, 24)
        expected = theirs(pixel_values_videos=video.transpose(1, 2), skip_predictor=True).last_hidden_state
        assert expected.abs().mean() > 0.1
        torch.testing.assert_close(ours.backbone(video), expected, atol=1e-4, rtol=0)
        # The other direction, with other weights.
        names = next(known.names for known in FORMATS if known.name == "Hugging Face V-JEPA 2")
        for parameter in ours.parameters():
            parameter.normal_(std=0.4)
        renamed = {}
        for name, value in ours.state_dict().items():
            parts = {name: value}
            if "qkv" in name:
                new_names = (name.replace("qkv", part) for part in ("query", "key", "value"))
                parts = dict(zip(new_names, value.chunk(3)))
            renamed |= {names.to_published(part): rows for part, rows in parts.items()}
        left = theirs.load_state_dict(renamed, strict=False)
        assert not left.unexpected_keys
        assert all(name.startswith("predictor.") for name in left.missing_keys)


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_a_subset_of_tokens_keeps_its_positions(backbone):
    """Tokens in another order, each with its own position: the same tokens in that order."""
    model, video = build(backbone), torch.randn(2, 3, 4, 24, 32)
    order = torch.stack([torch.randperm(24), torch.randperm(24)])
    positions, cubes = model.token_positions((2, 3, 4)), model.cubes(video)
    rows = torch.arange(2)[:, None]
    shuffled = model.encode(cubes[rows, order], positions[order])
    torch.testing.assert_close(shuffled, model(video)[rows, order])
    alone = model.encode(cubes[:, :5], positions[:5])
    torch.testing.assert_close(alone[0], model.encode(cubes[:1, :5], positions[None, :5])[0])
    assert (model.encode(cubes[:, :5], positions[5:10]) - alone).abs().max() > 1e-3


@torch.no_grad()
def test_time_is_relative_and_rows_are_scaled():
    """V-JEPA 2.1 has the same rows in larger frames, and depends on differences of time. V-JEPA 2 does not:
    its pairs of channels have two angles.
    """
    model = build()
    first, last = model.token_positions((1, 16, 4)), model.token_positions((1, 31, 4))
    torch.testing.assert_close(first.unflatten(0, (16, 4))[:, 0], last.unflatten(0, (31, 4))[::2, 0])
    assert model.token_positions((1, 1, 1)).isfinite().all()
    cubes = torch.randn(1, 9, 384)
    for backbone in BACKBONES:
        model = build(backbone)
        positions = model.token_positions((6, 3, 3)).unflatten(0, (6, 9))
        early, late = (model.encode(cubes, positions[time]) for time in (0, 5))
        assert ((early - late).abs().max() < 1e-5) == (backbone is VJepa21ViT)


@torch.no_grad()
def test_gemm_attention_and_attention_maps_rotate(monkeypatch):
    model, video = build(depth=1), torch.randn(1, 3, 4, 24, 24)
    tokens = model(video)
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "is_fast_gemm_enabled", lambda: True)
        torch.testing.assert_close(model(video), tokens)
    # The attention of each token, applied to the values, is what the block computes.
    maps = attention_maps(model, video, torch.eye(18), "last")  # mean of both heads
    block, rotation = model.blocks[0], model.token_positions((2, 3, 3)).unflatten(-1, (2, -1)).movedim(-2, 0)
    query, key, _ = block.attn.project(block.norm1(model.embed(model.cubes(video))), rotation)
    torch.testing.assert_close(maps, (query @ key.mT / 4).softmax(-1)[0].mean(0))


@torch.no_grad()
def test_rotation_is_computed_in_float32():
    """In bfloat16, positions 256 and 257 would be equal."""
    model = build().bfloat16()
    positions = model.token_positions((258, 1, 1))
    assert positions.dtype == torch.float32
    assert (positions[256] - positions[257]).abs().max() > 0.1
    assert model(torch.randn(1, 3, 4, 24, 24).bfloat16()).dtype == torch.bfloat16


def test_layers_and_errors():
    model = build(drop_path=0.5, recompute=True)
    assert [model.layer_of(name) for name in ("video_mod_embed", "patch_embed.proj.bias")] == [0, 0]
    assert [model.layer_of(name) for name in ("blocks.1.norm1.bias", "norm.bias")] == [2, 3]
    assert "positions" not in model.state_dict()
    assert isinstance(model, VideoViT)
    with pytest.raises(ConfigError, match="at least 6, got 4"):
        build(num_heads=8)


@pytest.mark.parametrize("backbone", ["VJepa2ViT", "VJepa21ViT"])
def test_pretrains(backbone):
    """Masked pre-training with rotary positions: all parameters have gradients."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", backbone, "MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 1),
            *("MODEL.BACKBONE.NUM_HEADS", 2, "MODEL.BACKBONE.PATCH_SIZE", 8, "INPUT.CROP_SIZE", 32),
            *("INPUT.NUM_FRAMES", 4, "MODEL.DECODER.EMBED_DIM", 12, "MODEL.DECODER.DEPTH", 1),
            *("MODEL.DECODER.NUM_HEADS", 2, "MODEL.MASK.RATIO", 0.5),
        ]
    )
    model = build_model(cfg)
    video = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    model({"video": video, "seed": torch.arange(2)})["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
