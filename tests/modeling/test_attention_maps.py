"""Attention maps, compared with the output of fused attention."""

import pytest
import torch

from vmae_det.modeling import VideoViT
from vmae_det.modeling.attention_maps import attention_maps, box_query_weights


@pytest.fixture
def backbone():
    """8 tokens of 2 time slices, three blocks; weights large enough for uneven attention."""
    torch.manual_seed(0)
    made = VideoViT(
        embed_dim=24, depth=3, num_heads=2, patch_size=4, tubelet_size=2, num_frames=4, crop_size=8
    ).eval()
    for block in made.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)
        torch.nn.init.normal_(block.attn.qkv.bias, std=0.5)
    return made


@pytest.fixture
def video():
    return torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def full_attention(backbone, video):
    """Return the attention of each block (N, N), averaged over heads, by torch's implementation."""
    x, found = backbone.patch_embed(backbone.cubes(video)) + backbone.positions, []
    for block in backbone.blocks:
        attention, normed = block.attn, block.norm1(x)
        query, key, _ = attention.qkv(normed).chunk(3, dim=-1)
        heads = [part.unflatten(-1, (2, 12)).transpose(1, 2) for part in (query, key)]
        found.append((heads[0] @ heads[1].mT / 12**0.5).softmax(-1)[0].mean(0))
        x = block(x)
    return found


def test_attention_of_the_last_block_is_that_of_the_fused_kernel(backbone, video):
    expected = full_attention(backbone, video)[-1]
    found = attention_maps(backbone, video, torch.eye(8), "last")
    torch.testing.assert_close(found, expected)
    assert found.std() > 0.02  # else uniform attention would pass, too


def test_attention_of_one_head_reproduces_the_output_of_the_block(backbone, video):
    """The output of the fused kernel is these weights times the values."""
    block = backbone.blocks[-1]
    block.attn.num_heads = 1
    given = []
    block.attn.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    look = attention_maps(backbone, video, torch.eye(8), "last")
    value = block.attn.qkv(given[0]).chunk(3, dim=-1)[2][0]
    torch.testing.assert_close(block.attn.proj(look @ value), block.attn(given[0])[0])


def test_rollout_is_the_product_of_all_blocks_with_the_residual_path(backbone, video):
    identity = torch.eye(8)
    product = identity
    for attention in full_attention(backbone, video):
        product = (identity + attention) / 2 @ product
    weights = torch.rand(3, 8, generator=torch.Generator().manual_seed(2))
    weights = weights / weights.sum(1, keepdim=True)
    found = attention_maps(backbone, video, weights, "rollout")
    torch.testing.assert_close(found, weights @ product)
    torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_no_hook_remains(backbone, video):
    attention_maps(backbone, video, torch.eye(8))
    assert not any(block._forward_pre_hooks for block in backbone.blocks)


def test_a_box_weights_tokens_by_their_overlap():
    # 2 x 3 patches of 10 pixels: the box covers 10 x 5 of the middle patch of the first row, and 5 x 5 of
    # the right one.
    weights = box_query_weights(torch.tensor([10.0, 5, 25, 10]), (2, 2, 3), 10, 1).reshape(2, 2, 3)
    expected = torch.zeros(2, 2, 3)
    expected[1, 0] = torch.tensor([0, 2 / 3, 1 / 3])
    torch.testing.assert_close(weights, expected)


def test_only_the_part_of_a_box_inside_the_clip_counts():
    weights = box_query_weights(torch.tensor([-50.0, -50, 5, 100]), (1, 2, 2), 10, 0)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0, 0.5, 0]))
