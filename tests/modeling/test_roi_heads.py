"""RoI heads and their options, and the focal loss."""

import pytest
import torch
import torch.nn.functional as F

from vmae_det.config import get_cfg
from vmae_det.config.checks import unused_keys
from vmae_det.engine.inspection import count_flops, count_tokens
from vmae_det.modeling import AttentionRoIHead, MaxPoolRoIHead, build_model
from vmae_det.modeling.losses import box_loss
from vmae_det.utils.errors import ConfigError

ATTENTION = ("MODEL.ROI_HEAD.NAME", "AttentionRoIHead", "MODEL.ROI_HEAD.ATTENTION_LAYERS", 2)
OPTIONS = (
    "MODEL.ROI_HEAD.CONTEXT",
    True,
    "MODEL.ROI_HEAD.NUM_LAYERS",
    2,
    "MODEL.ROI_HEAD.TEMPORAL_POOL",
    "max",
)
COUNTS = (2, 1, 0, 3)  # persons of each clip


def config(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "ActionDetector", "INPUT.CROP_SIZE", 32, "INPUT.NUM_FRAMES", 4),
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 1, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.ROI_HEAD.NUM_CLASSES", 5, *opts),
        ]
    )
    return cfg


def randomized(module):
    """Return a module in evaluation mode with random weights, so that every part affects the result."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return module.eval()


def make_batch(counts=COUNTS):
    generator = torch.Generator().manual_seed(0)
    sizes = [torch.rand(count, 2, 2, generator=generator).sort(dim=1).values for count in counts]
    return {
        "video": torch.randint(0, 256, (len(counts), 3, 4, 32, 48), generator=generator, dtype=torch.uint8),
        "boxes": [(corners * torch.tensor([48, 32])).flatten(1) for corners in sizes],
        "labels": [torch.ones(count, 5) for count in counts],
        "person_scores": [torch.ones(count) for count in counts],
        "seed": torch.arange(len(counts)),
    }


def test_default_heads_have_only_a_classifier():
    assert list(build_model(config()).roi_head.state_dict()) == ["classifier.weight", "classifier.bias"]


def test_maximum_over_time():
    model = build_model(config("MODEL.ROI_HEAD.TEMPORAL_POOL", "max"))
    video = torch.randn(2, 3, 4, 32, 48)
    tokens = model.tokens(video)
    assert tokens.shape == (2, 2, 2, 3, 24)
    assert torch.equal(model.features(video), torch.maximum(tokens[:, 0], tokens[:, 1]).permute(0, 3, 1, 2))


def test_context_is_the_pooled_frame_of_the_clip_of_each_person():
    """The average of each of 7 x 7 regions of the map, and their maximum, as in MMAction2."""
    head = MaxPoolRoIHead(6, 3, 1 / 16, aligned=True, context=True)
    features = torch.randn(2, 6, 14, 28)
    boxes = [torch.tensor([[5.0, 5.0, 99.0, 80.0]]), torch.tensor([[0.0, 0.0, 20.0, 20.0]]).repeat(2, 1)]
    pooled = head.pool(features, boxes)
    assert pooled.shape == (3, head.feature_dim) == (3, 12)
    context = F.adaptive_avg_pool2d(features, 7).amax(dim=(2, 3))
    torch.testing.assert_close(pooled[:, 6:], context[[0, 1, 1]])
    plain = MaxPoolRoIHead(6, 3, 1 / 16, aligned=True)
    assert torch.equal(pooled[:, :6], plain.pool(features, boxes))


def test_hidden_layers():
    head = MaxPoolRoIHead(6, 3, 1.0, num_layers=2, hidden_dim=10, dropout=0.5).eval()
    pooled = torch.randn(4, 6)
    first, last = head.hidden[0], head.classifier
    assert torch.equal(head.classify(pooled), last(F.relu(first(pooled))))
    assert (first.out_features, last.in_features) == (10, 10)
    assert MaxPoolRoIHead(6, 3, 1.0, num_layers=3, context=True).classifier.in_features == 12


def test_unused_options_are_reported():
    assert list(unused_keys(config())) == []
    lines = list(unused_keys(config("MODEL.ROI_HEAD.HIDDEN_DIM", 9, "MODEL.ROI_HEAD.ATTENTION_HEADS", 4)))
    assert [line.partition(":")[0] for line in lines] == [
        "MODEL.ROI_HEAD.HIDDEN_DIM",
        "MODEL.ROI_HEAD.ATTENTION_HEADS",
    ]


# ---------------------------------------------------------------- attention


def test_attention_starts_as_the_head_without_it():
    plain, model = build_model(config()), build_model(config(*ATTENTION))
    model.load_state_dict(plain.state_dict(), strict=False)
    batch = make_batch()
    for got, expected in zip(model.eval()(batch)["scores"], plain.eval()(batch)["scores"]):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("opts", [OPTIONS, ATTENTION, (*ATTENTION, *OPTIONS)])
def test_clips_of_a_batch_are_independent(opts):
    model, batch = randomized(build_model(config(*opts))), make_batch()
    scores = model(batch)["scores"]
    for clip in range(len(COUNTS)):
        alone = model({name: value[clip : clip + 1] for name, value in batch.items()})["scores"][0]
        torch.testing.assert_close(scores[clip], alone)
    changed = make_batch()
    changed["video"][3] = 255 - changed["video"][3]
    changed["boxes"][3] += 1
    after = model(changed)["scores"]
    assert all(torch.equal(scores[clip], after[clip]) for clip in range(3))  # bit for bit
    assert not torch.allclose(scores[3], after[3])


def test_persons_attend_to_the_tokens_and_the_persons_of_their_clip_only():
    head = randomized(AttentionRoIHead(8, 3, 1.0, attention_heads=2))
    features, tokens = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 4, 4, 8, requires_grad=True)
    boxes = torch.tensor([[0, 0, 0, 2, 2], [1, 1, 1, 3, 3], [1, 0, 2, 2, 4.0]])
    logits = head(features, boxes, tokens)
    (gradient,) = torch.autograd.grad(logits[1].sum(), tokens)
    assert (gradient[0] == 0).all()
    assert (gradient[1] != 0).any(dim=-1).all()  # all positions at all times
    moved = boxes.clone()
    moved[2, 1] = 3  # the second person of the second clip
    changed = (head(features, moved, tokens) != logits).any(dim=1)
    assert changed.tolist() == [False, True, True]
    swapped = head(features, boxes[[2, 0, 1]], tokens)
    torch.testing.assert_close(swapped, logits[[2, 0, 1]])


@pytest.mark.parametrize("opts", [OPTIONS, (*ATTENTION, *OPTIONS)])
def test_every_parameter_has_a_gradient_without_persons(opts):
    """Data-parallel training needs them."""
    model = build_model(config(*opts)).train()
    loss = model(make_batch((0, 0)))["loss"]
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_attention_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"ATTENTION_HEADS: the backbone's width 24 is not divisible by 7"):
        build_model(config(*ATTENTION, "MODEL.ROI_HEAD.ATTENTION_HEADS", 7))


def test_flops_of_attention():
    """Of 8 tokens and one person: projections, attention and MLP of two blocks, and a norm of the tokens."""
    plain, attention = (count_flops(cfg, count_tokens(cfg)) for cfg in (config(), config(*ATTENTION)))
    dim, keys = 24, 8 + 1
    block = (2 + 2 * keys + 8) * dim**2 + 2 * keys * dim
    assert attention - plain == pytest.approx(2 * block, rel=0.05)


# ---------------------------------------------------------------- focal loss


def test_focal_loss_of_mmaction2():
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(6, 4, generator=generator), torch.arange(24).view(6, 4) % 3 == 0
    entropy = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    expected = (3 * (1 - torch.exp(-entropy)) ** 2 * entropy).mean()
    loss = box_loss(logits, labels, "mean", focal_gamma=2.0, focal_alpha=3.0)
    torch.testing.assert_close(loss, expected)
    off = box_loss(logits, labels, "mean", focal_gamma=0.0, focal_alpha=1.0)
    assert torch.equal(off, box_loss(logits, labels, "mean"))
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    first = box_loss(logits[:, :1], labels[:, :1], "sum", focal_gamma=2.0) / 4
    torch.testing.assert_close(box_loss(logits, labels, "sum", weights, focal_gamma=2.0), first)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradient_of_the_focal_loss_is_finite(gamma):
    logits = torch.tensor([[-300.0, -20.0, 0.0, 20.0, 300.0]], requires_grad=True)
    for labels in (torch.zeros(1, 5), torch.ones(1, 5)):
        (gradient,) = torch.autograd.grad(box_loss(logits, labels, "sum", focal_gamma=gamma), logits)
        assert gradient.isfinite().all()


def test_the_detector_passes_its_keys_to_the_loss():
    batch = make_batch((1, 2))
    opts = ("MODEL.ROI_HEAD.FOCAL_GAMMA", 2.0, "MODEL.ROI_HEAD.FOCAL_ALPHA", 3.0, "MODEL.INIT", "published")
    model = build_model(config(*opts)).train()  # logits of almost 0
    assert model(batch)["loss"].item() == pytest.approx(3 * 3 * 0.25 * 0.6931472, rel=1e-3)
