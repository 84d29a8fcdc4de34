"""A class token in VideoViT, compared with blocks that are applied to all tokens by hand."""

import pytest
import torch

from vmae_det import model_zoo
from vmae_det.config import get_cfg
from vmae_det.engine.inspection import inspect_config
from vmae_det.modeling import VideoViT, build_model
from vmae_det.modeling.attention_maps import attention_maps
from vmae_det.modeling.features import video_features
from vmae_det.modeling.saliency import token_contributions
from vmae_det.solver import parameter_groups

SIZES = (
    *("INPUT.CROP_SIZE", 32, "INPUT.NUM_FRAMES", 4, "MODEL.BACKBONE.PATCH_SIZE", 8),
    *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.NUM_HEADS", 2),
    *("MODEL.CLASSIFIER.NUM_CLASSES", 5, "MODEL.DECODER.EMBED_DIM", 12, "MODEL.DECODER.NUM_HEADS", 2),
    *("MODEL.MASK.RATIO", 0.5, "MODEL.BACKBONE.CLASS_TOKEN", True),
)


def config(*opts, base=None):
    cfg = base or get_cfg()
    cfg.merge_from_list([*SIZES, *opts])
    return cfg


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "num_frames": 4, "crop_size": 32}
    built = VideoViT(**sizes, class_token=True).eval()
    for block in built.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)
    return built


@pytest.fixture
def video():
    return torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def inputs_of_blocks(backbone, x):
    """The inputs (1, 1 + N, C) of the blocks, and the output of the last, for embedded tokens (1, N, C)."""
    states = [torch.cat([backbone.class_token[None, None], x], dim=1)]
    for block in backbone.blocks:
        states.append(block(states[-1]))
    return states


def test_it_takes_part_in_attention_and_is_not_in_the_output(backbone, video):
    embedded = backbone.patch_embed(backbone.cubes(video)) + backbone.positions
    states = inputs_of_blocks(backbone, embedded)
    tokens = backbone(video)
    torch.testing.assert_close(tokens, backbone.norm(states[-1])[:, 1:])
    assert tokens.shape == (1, 32, 24)
    some = torch.tensor([3, 8, 30])
    visible = backbone.encode(backbone.cubes(video)[:, some], backbone.positions[some])
    torch.testing.assert_close(
        visible, backbone.norm(inputs_of_blocks(backbone, embedded[:, some])[-1])[:, 1:]
    )
    backbone.class_token.data.add_(torch.arange(24) % 3)
    assert (backbone(video) - tokens).abs().max() > 0.05
    wide = torch.zeros(2, 3, 4, 16, 40)  # frames of another size
    assert backbone(wide).shape == (2, 2 * 2 * 5, 24)


def test_attention_to_it_is_left_out_of_the_maps(backbone, video):
    states = inputs_of_blocks(backbone, backbone.patch_embed(backbone.cubes(video)) + backbone.positions)
    flow = torch.eye(33)
    for block, x in zip(backbone.blocks, states):
        query, key, _ = block.attn.qkv(block.norm1(x))[0].unflatten(-1, (3, 2, 12)).permute(1, 2, 0, 3)
        attention = (query @ key.mT / 12**0.5).softmax(-1).mean(0)
        flow = (torch.eye(33) + attention) / 2 @ flow
    for method, expected in (("last", attention), ("rollout", flow)):
        expected = expected[1:, 1:] / expected[1:, 1:].sum(1, keepdim=True)
        torch.testing.assert_close(attention_maps(backbone, video, torch.eye(32), method), expected)


@pytest.mark.parametrize("architecture", ["MaskedAutoencoder", "VideoClassifier"])
def test_it_is_trained_also_with_activation_checkpointing(architecture):
    gradients = []
    for recompute in (False, True):
        opts = ("MODEL.META_ARCHITECTURE", architecture, "MODEL.ACTIVATION_CHECKPOINTING", recompute)
        model = build_model(config(*opts)).train()
        video = torch.arange(2 * 3 * 4 * 32 * 32).reshape(2, 3, 4, 32, 32) % 251
        torch.manual_seed(0)
        model({"video": video.byte(), "label": torch.arange(2), "seed": torch.arange(2)})["loss"].backward()
        gradients.append(model.backbone.class_token.grad)
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


def test_it_has_the_rate_of_the_embedding_and_no_weight_decay():
    groups = parameter_groups(build_model(config("MODEL.META_ARCHITECTURE", "VideoClassifier")), 0.05, 0.5)
    group = next(group for group in groups if "backbone.class_token" in group["names"])
    assert (group["lr_scale"], group["weight_decay"]) == (0.5**3, 0.0)
    assert "backbone.patch_embed.proj.bias" in group["names"]


def test_features_contain_only_the_tokens_of_the_grid():
    model = build_model(config("MODEL.META_ARCHITECTURE", "VideoClassifier")).eval()
    video = (torch.arange(3 * 4 * 32 * 32).reshape(1, 3, 4, 32, 32) % 251).byte()
    backbone = model.backbone
    clip = model.normalization(video)
    states = inputs_of_blocks(backbone, backbone.patch_embed(backbone.cubes(clip)) + backbone.positions)
    means = torch.stack([state[:, 1:].mean(1) for state in states[1:]], dim=1)
    torch.testing.assert_close(video_features(model, video, "blocks"), means)
    torch.testing.assert_close(video_features(model, video, "tokens").flatten(1, 3), states[-1][:, 1:])


def test_its_own_contribution_is_not_in_the_map():
    cfg = config("MODEL.BACKBONE.TUBELET_SIZE", 2, base=model_zoo.get_config("MiniAVA/detect.yaml"))
    model = build_model(cfg).eval().requires_grad_(False)
    torch.nn.init.normal_(model.roi_head.classifier.weight)
    batch = {
        "video": (torch.arange(3 * 4 * 32 * 32).reshape(1, 3, 4, 32, 32) % 251).byte(),
        "boxes": [torch.tensor([[0.0, 0.0, 20.0, 30.0]])],
        "size": [torch.tensor([32.0, 32.0])],
    }
    (found,) = token_contributions(model, batch, [torch.tensor([1])])
    states = []
    model.backbone.blocks[-1].register_forward_pre_hook(
        lambda _, args: states.append(args[0].requires_grad_())
    )
    (gradient,) = torch.autograd.grad(model.person_logits(batch)[0, 1], states[0])
    expected = (states[0] * gradient)[0, 1:].sum(-1).detach()
    torch.testing.assert_close(found, expected.reshape(2, 4, 4))


def test_inspection_counts_it():
    with_token = inspect_config(config("MODEL.META_ARCHITECTURE", "VideoClassifier"))
    without = inspect_config(
        config("MODEL.META_ARCHITECTURE", "VideoClassifier", "MODEL.BACKBONE.CLASS_TOKEN", False)
    )
    assert with_token.total_parameters - without.total_parameters == 24
    assert with_token.tokens == without.tokens
    norms = 2 * 5 * 24  # of the block, as fvcore counts a LayerNorm
    attention = 2 * 24 * (33**2 - 32**2)
    assert with_token.flops - without.flops == 2 * (12 * 24**2 + attention + norms)
