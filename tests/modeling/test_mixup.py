import pytest
import torch
import torch.nn.functional as F

from vmae_det.config import get_cfg
from vmae_det.modeling import build_model
from vmae_det.modeling.classification import mix_labels, mix_videos


def mixing(partner, box, weight):
    """Return the same rectangle and weight for all clips."""
    return {
        "partner": torch.tensor(partner),
        "box": torch.tensor([box] * len(partner)),
        "weight": torch.full((len(partner),), weight, dtype=torch.float32),
    }


MIXUP = mixing([1, 0], (0, 4, 0, 4), 0.75)
CUTMIX = mixing([1, 0], (1, 3, 0, 2), 0.0)


def videos():
    return torch.stack([torch.full((3, 2, 4, 4), 8.0), torch.full((3, 2, 4, 4), 16.0)])


def test_mixup_by_hand():
    mixed = mix_videos(videos(), MIXUP)
    assert torch.equal(mixed[0], torch.full((3, 2, 4, 4), 10.0))  # 0.75 * 8 + 0.25 * 16
    assert torch.equal(mixed[1], torch.full((3, 2, 4, 4), 14.0))


def test_cutmix_by_hand():
    mixed = mix_videos(videos(), CUTMIX)
    expected = [[8, 8, 8, 8], [16, 16, 8, 8], [16, 16, 8, 8], [8, 8, 8, 8]]
    assert mixed[0, 0, 0].tolist() == expected
    assert torch.equal(mixed[0], mixed[0, :1, :1].expand(3, 2, 4, 4))
    assert torch.equal(mixed[1], 24 - mixed[0])


def test_rectangle_and_weight_can_differ_by_clip():
    both = {key: torch.stack([MIXUP[key][0], CUTMIX[key][1]]) for key in MIXUP}
    mixed = mix_videos(videos(), both)
    assert torch.equal(mixed[0], mix_videos(videos(), MIXUP)[0])
    assert torch.equal(mixed[1], mix_videos(videos(), CUTMIX)[1])
    both["weight"][0] = 0.5  # the first clip is half of each, the second keeps 12 of its 16 pixels
    soft = mix_labels(torch.tensor([0, 1]), both, num_classes=2, smoothing=0.0, size=(4, 4))
    assert soft.tolist() == [[0.5, 0.5], [0.25, 0.75]]


def test_soft_labels_by_hand():
    """4 classes, smoothing 0.2: a one-hot row becomes 0.85 and three times 0.05."""
    label = torch.tensor([0, 2])
    options = {"num_classes": 4, "smoothing": 0.2, "size": (4, 4)}
    soft = mix_labels(label, MIXUP, **options)
    assert soft[0].tolist() == pytest.approx([0.65, 0.05, 0.25, 0.05])  # 0.75 * 0.85 + 0.25 * 0.05
    assert soft[1].tolist() == pytest.approx([0.25, 0.05, 0.65, 0.05])
    cut = mix_labels(label, CUTMIX, **options)  # 4 of 16 pixels are the other's
    assert torch.allclose(cut, soft)
    same = mix_labels(torch.tensor([2, 2]), MIXUP, **options)
    assert same[0].tolist() == pytest.approx([0.05, 0.05, 0.85, 0.05])


def test_soft_labels_match_timm():
    from timm.data.mixup import mixup_target

    label = torch.tensor([3, 1, 1, 0])
    flip = mixing([3, 2, 1, 0], (0, 8, 0, 8), 0.3)
    soft = mix_labels(label, flip, num_classes=5, smoothing=0.1, size=(8, 8))
    assert torch.allclose(soft, mixup_target(label, 5, lam=0.3, smoothing=0.1))


@pytest.fixture
def small():
    """small(KEY, VALUE, ...): a classifier whose head distinguishes clips, and a batch of two."""

    def make(*overrides):
        cfg = get_cfg()
        cfg.merge_from_list(
            [
                *("MODEL.META_ARCHITECTURE", "VideoClassifier", "MODEL.CLASSIFIER.NUM_CLASSES", 5),
                *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.NUM_HEADS", 2),
                *("INPUT.NUM_FRAMES", 2, "INPUT.CROP_SIZE", 32, "MODEL.BACKBONE.PATCH_SIZE", 16),
                *overrides,
            ]
        )
        model = build_model(cfg)
        torch.manual_seed(0)
        torch.nn.init.normal_(model.head.weight)
        video = torch.randint(0, 256, (2, 3, 2, 32, 32), dtype=torch.uint8)
        return model, {"video": video, "label": torch.tensor([4, 1])}

    return make


def test_label_smoothing_by_hand(small):
    model, batch = small("MODEL.CLASSIFIER.LABEL_SMOOTHING", 0.3)
    logs = model.logits(model.normalization(batch["video"])).log_softmax(dim=1)
    expected = -sum(0.7 * logs[i, label] + 0.3 * logs[i].mean() for i, label in enumerate((4, 1))) / 2
    assert float(model(batch)["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_loss_of_a_mixed_batch(small):
    model, batch = small("MODEL.CLASSIFIER.LABEL_SMOOTHING", 0.0)
    batch["mixing"] = mixing([1, 0], (0, 32, 0, 32), 0.75)
    video = model.normalization(batch["video"])
    logits = model.logits(0.75 * video + 0.25 * video.flip(0))
    expected = 0.75 * F.cross_entropy(logits, batch["label"]) + 0.25 * F.cross_entropy(
        logits, batch["label"].flip(0)
    )
    assert float(model(batch)["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    model.eval()
    mixed = model(batch)["scores"]
    del batch["mixing"]
    assert torch.equal(mixed, model(batch)["scores"])


def test_a_clip_mixed_with_itself_is_unchanged(small):
    model, batch = small()
    plain = model(batch)["loss"]
    batch["mixing"] = mixing([0, 1], (3, 20, 0, 32), 0.0)
    assert float(model(batch)["loss"].detach()) == pytest.approx(float(plain.detach()), rel=1e-5)


def test_head_dropout_and_drop_path_act_only_in_training(small):
    for key in ("MODEL.CLASSIFIER.DROPOUT", "MODEL.BACKBONE.DROP_PATH"):
        model, batch = small(key, 0.5)
        losses = {float(model(batch)["loss"].detach()) for _ in range(8)}
        assert len(losses) > 1, key
        model.eval()
        assert torch.equal(model(batch)["scores"], model(batch)["scores"])
        plain, _ = small()
        plain.load_state_dict(model.state_dict())
        assert torch.equal(plain.eval()(batch)["scores"], model(batch)["scores"])


def test_drop_path_increases_from_the_first_block_to_the_last(small):
    model, _ = small("MODEL.BACKBONE.DROP_PATH", 0.4, "MODEL.BACKBONE.DEPTH", 3)
    rates = [
        [module.drop_prob for module in block.modules() if type(module).__name__ == "DropPath"]
        for block in model.backbone.blocks
    ]
    assert [max(rate, default=0.0) for rate in rates] == pytest.approx([0.0, 0.2, 0.4])


def test_gradients_flow_to_both_clips(small):
    video = videos().requires_grad_()
    mix_videos(video, CUTMIX)[0].sum().backward()
    assert video.grad[0, 0, 0].sum() == 12
    assert video.grad[1, 0, 0].sum() == 4
