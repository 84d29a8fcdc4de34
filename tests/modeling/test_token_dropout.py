"""Token dropout against a slow computation, token by token, and what depends on the tokens that are left."""

import logging
import math

import pytest
import torch

from vmae_det.checkpoint import save_weights
from vmae_det.config import check_config, get_cfg
from vmae_det.config.checks import unused_keys
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.modeling import VideoViT, VJepa21ViT, build_model
from vmae_det.modeling.attention_maps import attention_maps
from vmae_det.modeling.backbones.blocks import Block, rotate
from vmae_det.modeling.backbones.token_dropout import (
    count_kept,
    default_drop_blocks,
    fill_dropped,
    kept_share,
)
from vmae_det.modeling.features import video_features
from vmae_det.modeling.saliency import token_contributions
from vmae_det.utils.errors import ConfigError

SIZES = {"embed_dim": 24, "depth": 4, "num_heads": 2, "patch_size": 8, "num_frames": 8, "crop_size": 24}
KINDS = [(VideoViT, {}), (VideoViT, {"class_token": True}), (VJepa21ViT, {})]
OPTIONS = (
    *("INPUT.CROP_SIZE", 24, "INPUT.NUM_FRAMES", 8, "MODEL.BACKBONE.PATCH_SIZE", 8),
    *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 4, "MODEL.BACKBONE.NUM_HEADS", 2),
    *("MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.ROI_HEAD.NUM_CLASSES", 5, "MODEL.DECODER.NUM_HEADS", 2),
    *("MODEL.DECODER.EMBED_DIM", 12, "MODEL.ROI_HEAD.BOX_JITTER", False),
    *("MODEL.PERSON_HEAD.CHANNELS", 8),
)
BOXES = [
    torch.tensor([[0.0, 0.0, 16.0, 24.0], [3.0, 2.0, 23.0, 20.0]]),
    torch.tensor([[8.0, 0.0, 24.0, 15.0]]),
]


def randomize(module, std=0.3):
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if "norm" not in name:
            parameter.data.normal_(std=std)
    return module.eval()


def build(backbone=VideoViT, **options):
    return randomize(backbone(**SIZES | {"keep_rate": 0.7} | options)).double()


def clips(number=2, height=24, width=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 3, 8, height, width, generator=generator, dtype=torch.float64)


def config(*opts):
    cfg = get_cfg()
    cfg.merge_from_list([*OPTIONS, *opts])
    return cfg


def model_of(architecture, *opts):
    options = ("MODEL.META_ARCHITECTURE", architecture, "MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7)
    return randomize(build_model(config(*options, *opts)))


def batch(number=2):
    generator = torch.Generator().manual_seed(2)
    video = torch.randint(256, (number, 3, 8, 24, 24), generator=generator, dtype=torch.uint8)
    boxes = (BOXES * number)[:number]
    return {
        "video": video,
        "boxes": boxes,
        "size": [torch.tensor([24.0, 24.0])] * number,
        "person_scores": [torch.ones(len(own)) for own in boxes],
        "labels": [torch.ones(len(own), 5) for own in boxes],
        "label": torch.arange(number) % 5,
        "seed": torch.arange(number),
    }


# ---------------------------------------------------------------- the description, written out


def slow_tokens(model, video, weight=4.0):
    """Return the tokens that are left of a video (3, T, H, W) and normalized, by their index in the grid."""
    grid = t, h, w = model.grid(video[None])
    x, *rotation = model.block_inputs(model.cubes(video[None]), model.token_positions(grid))
    extra = model.num_extra_tokens
    names = [*(f"extra {number}" for number in range(extra)), *range(t * h * w)]
    tokens = dict(zip(names, x[0]))
    keyframe = set(range(t // 2 * h * w, (t // 2 + 1) * h * w))
    drops = 0
    for position, block in enumerate(model.blocks, start=1):
        names = list(tokens)
        rows = torch.stack([tokens[name] for name in names])
        turned = [part[:, [name for name in names if name in range(t * h * w)]] for part in rotation]
        query, key, value = block.attn.qkv(block.norm1(rows)).chunk(3, dim=1)
        received, heads = dict.fromkeys(names, 0.0), []
        for q, k, v in zip(query.chunk(2, 1), key.chunk(2, 1), value.chunk(2, 1)):
            if turned:
                q, k = (rotate(part[None, None], turned[0])[0, 0] for part in (q, k))
            weights = (q @ k.T / math.sqrt(q.shape[1])).softmax(dim=1)
            heads.append(weights @ v)
            for name, row in zip(names, weights.tolist()):
                for other, number in zip(names, row):
                    received[other] += number * (weight if name in keyframe else 1)
        rows = rows + block.attn.proj(torch.cat(heads, dim=1))
        if position in default_drop_blocks(len(model.blocks)):
            drops += 1
            others = [name for name in names if name in range(t * h * w) and name not in keyframe]
            count = max(math.ceil(round(t * h * w * 0.7**drops, 6)) - h * w, 0)
            best = set(sorted(others, key=lambda name: -received[name])[:count])
            names_left = [name for name in names if name not in others or name in best]
        else:
            names_left = names
        rows = dict(zip(names, rows))
        tokens = {name: rows[name] + block.mlp(block.norm2(rows[name])) for name in names_left}
    return {name: model.norm(token) for name, token in tokens.items() if name in range(t * h * w)}


def slow_grid(tokens, grid):
    """Return the grid of tokens (t * h * w, C), with the mean of its cell for each dropped token."""
    cells = grid[1] * grid[2]
    cell_tokens = [[tokens[i] for i in sorted(tokens) if i % cells == cell] for cell in range(cells)]
    means = [torch.stack(own).mean(dim=0) for own in cell_tokens]
    return torch.stack([tokens.get(i, means[i % cells]) for i in range(math.prod(grid))])


@pytest.mark.parametrize(("backbone", "options"), KINDS)
def test_equals_the_description(backbone, options):
    model, video = build(backbone, **options), clips(1)
    grid = model.grid(video)
    expected = slow_tokens(model, video[0])
    assert len(expected) == count_kept(grid, kept_share(0.7, 3)) == 21  # of 60
    torch.testing.assert_close(model(video)[0], slow_grid(expected, grid))
    torch.testing.assert_close(model.mean_token(video)[0], torch.stack(list(expected.values())).mean(0))


def test_the_weight_of_the_keyframe_matters():
    """Else the test above would not test it."""
    model, video = build(), clips(1)
    assert set(slow_tokens(model, video[0])) != set(slow_tokens(model, video[0], weight=1.0))


def test_gradients_are_those_of_the_description():
    found = []
    for forward in (lambda m, v: m(v), lambda m, v: slow_grid(slow_tokens(m, v[0]), m.grid(v))[None]):
        model, video = build(), clips(1)
        tokens = forward(model, video)
        (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens)).sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(gradient is not None for gradient in found[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (24, 24), (16, 56)])
@pytest.mark.parametrize(("backbone", "options"), KINDS)
def test_a_clip_has_the_same_tokens_alone_and_in_a_batch(backbone, options, height, width):
    model, videos = build(backbone, **options), clips(4, height, width)
    tokens = model(videos)
    assert tokens.shape == (4, 4 * (height // 8) * (width // 8), 24)
    for video, own in zip(videos, tokens):
        torch.testing.assert_close(model(video[None])[0], own)
    torch.testing.assert_close(model.train()(videos), tokens)


def test_clips_of_one_slice_keep_all_tokens():
    model, video = build(num_frames=2), clips(1)[:, :, :2]
    cubes, positions = model.cubes(video), model.token_positions((1, 3, 5))
    assert model.encode_and_drop(cubes, positions, (1, 3, 5))[0].shape == (1, 15, 24)
    torch.testing.assert_close(model(video), model.encode(cubes, positions))


def test_of_equal_tokens_the_earlier_ones_are_kept():
    model, video = build(drop_blocks=(2,)), clips(1)
    for block in model.blocks:
        block.attn.qkv.weight.data.zero_()  # all tokens receive the same attention
    _, index, _ = model.encode_and_drop(model.cubes(video), model.token_positions((4, 3, 5)), (4, 3, 5))
    assert index[0].tolist() == [*range(30, 45), *range(27)]  # 42 of 60: the keyframe, then the first others


def test_blocks_of_the_paper_and_in_proportion():
    assert default_drop_blocks(12) == (4, 7, 10)
    assert default_drop_blocks(24) == (7, 13, 19)  # of ViT-L
    assert [default_drop_blocks(depth) for depth in (1, 2, 3)] == [(1,), (1, 2), (1, 2, 3)]
    names = [type(block).__name__ for block in build(drop_blocks=(3,)).blocks]
    assert names == ["Block", "Block", "TokenDropoutBlock", "Block"]


def test_number_of_tokens_left():
    """0.7 ** drops of 1568 are 1097.6, 768.3 and 537.8."""
    shares = [kept_share(rate, drops) for rate in (0.7, 0.5) for drops in (1, 2, 3, 4)]
    counts = [count_kept((8, 14, 14), share) for share in shares]
    assert counts == [1098, 769, 538, 377, 784, 392, 196, 196]


def test_maximum_over_time_ignores_dropped_tokens():
    tokens = -1 - torch.rand(1, 3, 2, generator=torch.Generator().manual_seed(0))  # all below zero
    full = fill_dropped(tokens, torch.tensor([[2, 3, 1]]), (3, 1, 2)).unflatten(1, (3, 2))
    torch.testing.assert_close(full.amax(dim=1)[0], torch.stack([tokens[0, 0], tokens[0, 1:].amax(0)]))
    torch.testing.assert_close(full.mean(dim=1)[0], torch.stack([tokens[0, 0], tokens[0, 1:].mean(0)]))


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_detector_pools_the_tokens_that_are_left(pool):
    model = model_of("ActionDetector", "MODEL.ROI_HEAD.TEMPORAL_POOL", pool).double()
    video = clips(1, width=24)
    tokens = slow_tokens(model.backbone, video[0])
    for cell, feature in enumerate(model.features(video)[0].flatten(1).T):  # (C,)
        own = torch.stack([token for i, token in tokens.items() if i % 9 == cell])
        torch.testing.assert_close(feature, own.mean(0) if pool == "mean" else own.amax(0))


def test_a_classifier_averages_the_tokens_that_are_left():
    model = model_of("VideoClassifier").double()
    video = clips(1, width=24)
    mean = torch.stack(list(slow_tokens(model.backbone, video[0]).values())).mean(0)
    torch.testing.assert_close(model.logits(video)[0], model.head(model.fc_norm(mean)))


def test_a_keep_rate_of_one_changes_nothing():
    plain = randomize(VideoViT(**SIZES))
    assert all(type(block) is Block for block in plain.blocks)
    dropping = VideoViT(**SIZES, keep_rate=0.7)
    dropping.load_state_dict(plain.state_dict())  # strict: the parameters have the same names and shapes
    cubes, positions = plain.cubes(clips().float()), plain.token_positions((4, 3, 5))
    assert torch.equal(dropping.encode(cubes, positions), plain.encode(cubes, positions))  # of any subset


@pytest.mark.parametrize("class_token", [False, True])
def test_a_person_head_gets_all_tokens_of_the_keyframe(class_token):
    model, video = build(class_token=class_token), clips()
    tokens, keyframe = model.forward_blocks(video, (1, 2, 4, 4), 2)
    torch.testing.assert_close(tokens, model(video))
    plain = build(class_token=class_token, keep_rate=1.0).forward_blocks(video, (1, 2), 2)[1]
    torch.testing.assert_close(keyframe[0], plain[0])
    torch.testing.assert_close(keyframe[1], plain[1])  # block 2 attends to all tokens, then drops some
    for last in keyframe[2:]:
        torch.testing.assert_close(model.norm(last), tokens[:, 30:45])
    with pytest.raises(ValueError, match="tokens of time slice 1 are dropped; expected 2"):
        model.forward_blocks(video, (1,), 1)


def test_a_detector_with_a_person_head_trains_all_parameters():
    model = model_of("ActionDetector", *("MODEL.PERSON_HEAD.NAME", "FcosPersonHead")).train()
    losses = model(batch())
    assert losses.keys() == {"action_loss", "person_class_loss", "person_box_loss", "person_centerness_loss"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def tokens_after(model, found):
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, y: found.append(y[0] if isinstance(y, tuple) else y))
    return model


# ---------------------------------------------------------------- training and other uses


@pytest.mark.parametrize("architecture", ["VideoClassifier", "ActionDetector"])
def test_activation_checkpointing_and_drop_path(architecture):
    results = []
    for recompute in (False, True):
        opts = ("MODEL.ACTIVATION_CHECKPOINTING", recompute, "MODEL.BACKBONE.DROP_PATH", 0.5)
        model = model_of(architecture, *opts).train()
        torch.manual_seed(3)
        loss = model(batch(4))["loss"]
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_mixed_precision_is_close_to_float32():
    model, inputs = model_of("ActionDetector").train(), batch()
    full = model(inputs)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(inputs)["loss"]
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(loss, full, rtol=0.1, atol=0.0)


def test_features_of_blocks_are_means_of_the_tokens_that_are_left():
    model, video = model_of("VideoClassifier"), batch()["video"]
    found = []
    tokens_after(model.backbone, found)
    features = video_features(model, video, "blocks")
    assert [tokens.shape[1] for tokens in found] == [36, 26, 18, 13]
    torch.testing.assert_close(features, torch.stack([tokens.mean(1) for tokens in found], dim=1))
    assert video_features(model, video, "tokens").shape == (2, 4, 3, 3, 24)


def test_contributions_are_those_of_the_tokens_that_are_left():
    model = model_of("ActionDetector", "MODEL.BACKBONE.TOKEN_DROP_BLOCKS", (2, 3)).requires_grad_(False)
    inputs, classes = batch(), [torch.tensor([3, 0]), torch.tensor([1])]
    maps = token_contributions(model, inputs, classes)  # (R, t, h, w)
    backbone, video = model.backbone, model.normalization(inputs["video"])
    _, index, _ = backbone.encode_and_drop(
        backbone.cubes(video), backbone.token_positions((4, 3, 3)), (4, 3, 3)
    )
    for own, clip in zip(maps, (0, 0, 1)):
        assert set(own.flatten().nonzero()[:, 0].tolist()) == set(index[clip].tolist())

    def logits(scale):
        hook = backbone.blocks[-1].register_forward_pre_hook(lambda _, args: (args[0] * scale, *args[1:]))
        try:
            return model.double().person_logits(inputs)[torch.arange(3), torch.cat(classes)]
        finally:
            hook.remove()

    expected = (logits(1 + 1e-4) - logits(1 - 1e-4)) / 2e-4
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)).double(), expected, rtol=1e-2, atol=1e-3)


def test_attention_maps_need_all_tokens():
    with pytest.raises(ConfigError, match=r"TOKEN_KEEP_RATE: 0.7, but attention maps need all tokens"):
        attention_maps(build(), clips(1), torch.eye(60))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.META_ARCHITECTURE", "MaskedAutoencoder"), "TOKEN_KEEP_RATE: 0.7, but MaskedAutoencoder"),
        (("MODEL.BACKBONE.TOKEN_DROP_BLOCKS", (2, 5)), r"has block 5, but MODEL.BACKBONE.DEPTH is 4"),
        (("MODEL.BACKBONE.TOKEN_DROP_BLOCKS", (3, 2)), r"\[3, 2\] must be ascending"),
        (("MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.0), "TOKEN_KEEP_RATE: "),
    ],
)
def test_invalid_configs(opts, message):
    dropping = ("MODEL.META_ARCHITECTURE", "VideoClassifier", "MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7)
    with pytest.raises(ConfigError, match=message):
        check_config(config(*dropping, *opts))


def test_backbones_without_it_refuse_it():
    with pytest.raises(ConfigError, match=r"TOKEN_KEEP_RATE: 0\.7, but Hiera cannot drop tokens"):
        model_of("VideoClassifier", "MODEL.BACKBONE.NAME", "Hiera")


def test_blocks_without_a_rate_are_named():
    messages = list(unused_keys(config("MODEL.BACKBONE.TOKEN_DROP_BLOCKS", (2,))))
    assert any("TOKEN_DROP_BLOCKS: (2,) has no effect" in message for message in messages)


def test_another_rate_than_that_of_training_is_a_warning(tmp_path, caplog):
    cfg = config("MODEL.META_ARCHITECTURE", "ActionDetector")
    weights = tmp_path / "model.pt"
    save_weights(randomize(build_model(cfg)).state_dict(), cfg.dump(), weights)
    cfg.merge_from_list(["MODEL.WEIGHTS", str(weights), "MODEL.BACKBONE.TOKEN_KEEP_RATE", 0.7])
    with caplog.at_level(logging.WARNING):
        model = build_model_with_weights(cfg, complete=True).eval()
    assert "MODEL.BACKBONE.TOKEN_KEEP_RATE: 0.7, but" in caplog.text
    assert torch.equal(model(batch())["scores"][0], model_of("ActionDetector")(batch())["scores"][0])
