"""Contributions of tokens to the score of a person: the derivative of its logit, and of no other."""

import pytest
import torch

from vmae_det import model_zoo
from vmae_det.modeling import build_model
from vmae_det.modeling.saliency import token_contributions
from vmae_det.utils.errors import ConfigError

BOXES = [
    torch.tensor([[0.0, 0.0, 30.0, 60.0], [34.0, 2.0, 62.0, 64.0]]),
    torch.tensor([[8.0, 8.0, 40.0, 50.0]]),
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    cfg = model_zoo.get_config("MiniAVA/detect.yaml")
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.NUM_HEADS", 2),
            *(
                "MODEL.BACKBONE.PATCH_SIZE",
                16,
                "MODEL.BACKBONE.TUBELET_SIZE",
                2,
                "INPUT.NUM_FRAMES",
                4,
                "INPUT.CROP_SIZE",
                64,
            ),
        ]
    )
    model = build_model(cfg).eval().requires_grad_(False)
    torch.nn.init.normal_(model.roi_head.classifier.weight)
    return model


@pytest.fixture
def batch():
    video = torch.randint(256, (2, 3, 4, 64, 64), dtype=torch.uint8)
    return {"video": video, "boxes": BOXES, "size": [torch.tensor([64.0, 64.0])] * 2}


CLASSES = [torch.tensor([3, 0]), torch.tensor([1])]


def test_the_sum_is_the_derivative_of_the_logit(model, batch):
    maps = token_contributions(model, batch, CLASSES)
    assert maps.shape == (3, 2, 4, 4)

    def logits(scale):
        hook = model.backbone.blocks[-1].register_forward_pre_hook(lambda _, args: (args[0] * scale,))
        try:
            return model.double().person_logits(batch)[torch.arange(3), torch.cat(CLASSES)]
        finally:
            hook.remove()
            model.float()

    step = 1e-4
    expected = (logits(1 + step) - logits(1 - step)) / (2 * step)
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)).double(), expected, rtol=1e-2, atol=1e-4)


def test_a_token_that_the_last_block_ignores_contributes_nothing(model, batch):
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[0:4, 0:2] = True  # tokens that RoIAlign of the first box reads
    model.backbone.blocks[-1].attn.proj.weight.zero_()  # no exchange between tokens
    first = token_contributions(model, batch, CLASSES)[0]
    assert not first[:, :, 3].any()
    assert first[:, inside].abs().sum() > 0


def test_tokens_outside_of_the_box_contribute_by_attention(model, batch):
    assert token_contributions(model, batch, CLASSES)[0][:, :, 3].abs().sum() > 0


def test_no_hook_and_no_gradient_remains(model, batch):
    before = model.person_logits(batch)
    token_contributions(model, batch, CLASSES)
    assert not model.backbone.blocks[-1]._forward_pre_hooks
    after = model.person_logits(batch)
    assert not after.requires_grad
    assert torch.equal(before, after)


def test_another_backbone(model, batch):
    model.backbone = torch.nn.Identity()
    with pytest.raises(ConfigError, match="require VideoViT, got Identity"):
        token_contributions(model, batch, CLASSES)
