import pytest
import torch

from vmae_det.config import get_cfg
from vmae_det.modeling import build_model
from vmae_det.modeling.backbones.patch_embedding import from_cubes, to_cubes
from vmae_det.modeling.backbones.position_embedding import axis_positions, flat_positions, resize_positions
from vmae_det.modeling.boxes import clip_boxes, clip_indices, jitter_boxes, scale_boxes
from vmae_det.modeling.losses import box_loss, reconstruction_loss
from vmae_det.modeling.seeded_random import uniform
from vmae_det.utils.errors import ConfigError


def small(architecture, *opts):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", architecture, "INPUT.CROP_SIZE", 32, "INPUT.NUM_FRAMES", 4),
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.DECODER.EMBED_DIM", 12, "MODEL.DECODER.DEPTH", 1, "MODEL.DECODER.NUM_HEADS", 2),
            *("MODEL.MASK.RATIO", 0.5, "MODEL.ROI_HEAD.NUM_CLASSES", 5, "MODEL.CLASSIFIER.NUM_CLASSES", 5),
            *opts,
        ]
    )
    return build_model(cfg)


def clips(count, height=32, width=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 4, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("dim", "depth", "heads", "millions"), [(384, 12, 6, 22), (768, 12, 12, 87)])
def test_published_sizes(dim, depth, heads, millions):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "VideoClassifier", "MODEL.BACKBONE.EMBED_DIM", dim),
            *("MODEL.BACKBONE.DEPTH", depth, "MODEL.BACKBONE.NUM_HEADS", heads),
        ]
    )
    with torch.device("meta"):
        from vmae_det.modeling.build import model_class

        parameters = sum(p.numel() for p in model_class(cfg).from_config(cfg).parameters())
    assert round(parameters / 1e6) == millions


def test_cubes_are_cut_and_reassembled():
    video = clips(2)
    cubes = to_cubes(video, 2, 16)
    assert cubes.shape == (2, 2 * 2 * 2, 2 * 16 * 16 * 3)
    # the second cube of the first row of the second slice; its pixel (frame 1, row 3, column 5), green
    cube = cubes[0, 4 + 1].view(2, 16, 16, 3)
    assert cube[1, 3, 5, 1] == video[0, 1, 2 + 1, 3, 16 + 5]
    assert torch.equal(from_cubes(cubes, (2, 2, 2), 2, 16), video)


def test_the_embedding_equals_the_convolution():
    backbone = small("ActionDetector").backbone
    video = torch.randn(2, 3, 4, 32, 32)
    expected = torch.nn.functional.conv3d(
        video, backbone.patch_embed.proj.weight, backbone.patch_embed.proj.bias, stride=(2, 16, 16)
    )
    actual = backbone.patch_embed(backbone.cubes(video))
    torch.testing.assert_close(actual, expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_positions():
    table = flat_positions((1, 2, 5), 8)
    assert table[0].tolist() == [0, 1] * 4
    assert table[3, 2].item() == pytest.approx(torch.sin(torch.tensor(3 / 10000 ** (2 / 8))).item())
    assert torch.equal(resize_positions(table, (1, 2, 5), (1, 2, 5)), table)
    resized = resize_positions(flat_positions((2, 4, 4), 8), (2, 4, 4), (2, 4, 6))
    assert resized.shape == (48, 8)


def test_positions_by_axis_are_similar_for_neighbors():
    table = axis_positions((4, 8, 8), 24).view(4, 8, 8, 24)
    near = [(table[1, 3, 3] - other).norm() for other in (table[2, 3, 3], table[1, 4, 3], table[1, 3, 4])]
    far = (table[1, 3, 3] - table[1, 6, 6]).norm()
    assert max(near) < far
    assert torch.equal(table[0, :, :, :8], table[0, :1, :1, :8].expand(8, 8, -1))  # time only


def test_masked_cubes_do_not_affect_the_prediction():
    model = small("MaskedAutoencoder").eval()
    video = torch.randn(1, 3, 4, 32, 32)
    mask = torch.tensor([[True, False, False, True] * 2])
    cubes = to_cubes(video, 2, 16)
    cubes[mask] += 100
    changed = from_cubes(cubes, (2, 2, 2), 2, 16)
    prediction, _ = model.reconstruct(video, mask)
    assert torch.equal(prediction, model.reconstruct(changed, mask)[0])


def test_the_fast_path_of_training_equals_the_plain_one():
    """forward() cuts bytes and normalizes selected cubes; reconstruct() takes the normalized video."""
    model = small("MaskedAutoencoder").eval()
    batch = {"video": clips(2), "seed": torch.tensor([1, 2])}
    predictions = model(batch)
    prediction, target = model.reconstruct(model.normalization(batch["video"]), predictions["mask"])
    torch.testing.assert_close(predictions["loss"], reconstruction_loss(prediction, target, "mse"))
    torch.testing.assert_close(model.train()(batch)["loss"], predictions["loss"].mean())


def test_a_perfect_prediction_reconstructs_the_video():
    model = small("MaskedAutoencoder").eval()
    video = clips(2)
    model._predict = lambda seen, visible, masked: model._target(
        model.backbone.cubes(video)
        .gather(1, masked[:, :, None].expand(-1, -1, 1536))
        .div(255)
        .unflatten(2, (-1, 3))
    )
    predictions = model({"video": video, "seed": torch.tensor([1, 2])})
    assert (predictions["reconstruction"].int() - video.int()).abs().max() <= 1
    assert predictions["loss"].max() < 1e-10


def test_targets_are_normalized_by_cube_and_color():
    model = small("MaskedAutoencoder")
    _, target = model.reconstruct(torch.randn(1, 3, 4, 32, 32), torch.tensor([[True, False] * 4]))
    values = target.unflatten(2, (-1, 3))
    assert values.mean(dim=2).abs().max() < 1e-5
    assert (values.std(dim=2) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["mse", "l1", "smooth_l1"])
def test_reconstruction_losses(kind):
    difference = torch.tensor([[[0.5, 2.0]]])
    expected = {"mse": (0.25 + 4) / 2, "l1": 1.25, "smooth_l1": (0.125 + 1.5) / 2}[kind]
    assert reconstruction_loss(difference, torch.zeros(1, 1, 2), kind).tolist() == [expected]


def test_box_loss_is_a_mean_over_classes_and_a_sum_over_boxes():
    logits, labels = torch.zeros(3, 4), torch.zeros(3, 4)
    log2 = 0.6931472
    assert box_loss(logits, labels, "sum").item() == pytest.approx(3 * log2)
    assert box_loss(logits, labels, "mean").item() == pytest.approx(log2)
    assert box_loss(logits[:0], labels[:0], "mean").item() == 0
    many = torch.zeros(301, 4)  # bfloat16 has no 301
    assert box_loss(many.bfloat16(), many, "mean").item() == pytest.approx(log2)


def test_boxes_are_not_rounded_in_half_precision():
    head = small("ActionDetector").roi_head
    features = torch.zeros(300, 24, 1, 16, dtype=torch.bfloat16)
    features[299, :, 0, 12] = 1.0
    inside, outside = [299.0, 195.0, 0.0, 204.0, 16.0], [297.0, 195.0, 0.0, 204.0, 16.0]
    pooled = head.pool(features, torch.tensor([inside, outside]))
    assert torch.equal(pooled, head.pool(features.float(), torch.tensor([inside, outside])))
    assert not torch.equal(pooled[0], pooled[1])


def test_a_linear_probe_trains_only_the_head():
    model = small("VideoClassifier", "MODEL.CLASSIFIER.LINEAR_PROBE", True)
    names = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {"fc_norm", "head"}


def test_scores_do_not_depend_on_the_rest_of_the_batch():
    model = small("ActionDetector").eval()
    boxes = [
        torch.tensor([[2.0, 3.0, 20.0, 30.0]]),
        torch.tensor([[0.0, 0.0, 40.0, 30.0], [5.0, 5.0, 9.0, 9.0]]),
    ]
    batch = {
        "video": clips(2, 32, 48),
        "boxes": boxes,
        "person_scores": [torch.tensor([0.9]), torch.tensor([1.0, 0.5])],
    }
    together = model(batch)["scores"]
    alone = [model({k: v[i : i + 1] for k, v in batch.items()})["scores"][0] for i in range(2)]
    for a, b in zip(together, alone):
        torch.testing.assert_close(a, b)
    assert [len(scores) for scores in together] == [1, 2]


def test_person_scores_multiply_action_scores():
    boxes = [torch.tensor([[2.0, 3.0, 20.0, 30.0]])]
    batch = {"video": clips(1), "boxes": boxes, "person_scores": [torch.tensor([0.5])]}
    weighed = small("ActionDetector").eval()(batch)["scores"][0]
    plain = small("ActionDetector", "MODEL.ROI_HEAD.USE_PERSON_SCORE", False).eval()(batch)["scores"][0]
    torch.testing.assert_close(weighed, plain * 0.5)


def test_a_clip_without_boxes():
    model = small("ActionDetector")
    none = torch.zeros(0, 4)
    batch = {"video": clips(1), "boxes": [none], "labels": [torch.zeros(0, 5)], "seed": torch.tensor([1])}
    loss = model(batch)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert model.eval()({**batch, "person_scores": [torch.zeros(0)]})["scores"][0].shape == (0, 5)


def test_boxes_are_scaled_about_their_center_and_clipped():
    boxes = torch.tensor([[20.0, 40.0, 30.0, 60.0], [0.0, 0.0, 100.0, 100.0]])
    expected = torch.tensor([[19.5, 39.5, 30.5, 60.5], [0.0, 0.0, 100.0, 100.0]])
    torch.testing.assert_close(scale_boxes(boxes, (1.1, 1.05), torch.tensor([100, 100])), expected)
    sizes = torch.tensor([[30.0, 60.0], [100.0, 98.0]])
    expected = torch.tensor([[19.5, 39.5, 30.0, 60.0], [0.0, 0.0, 100.0, 98.0]])
    torch.testing.assert_close(scale_boxes(boxes, (1.1, 1.05), sizes), expected)


def test_test_boxes_are_clipped_to_the_frame_and_not_to_its_padding():
    """A box at the right border of a frame of 28 x 32 in a clip of 32 x 32."""
    model = small("ActionDetector").eval()
    batch = {"video": clips(1), "person_scores": [torch.ones(1)], "size": [torch.tensor([28.0, 32.0])]}
    scores = model({**batch, "boxes": [torch.tensor([[8.0, 0.0, 28.0, 32.0]])]})["scores"][0]
    features = model.features(model.normalization(batch["video"]))
    expected = model.roi_head(features, [torch.tensor([[7.0, 0.0, 28.0, 32.0]])]).sigmoid()
    torch.testing.assert_close(scores, expected)


def test_jitter_is_within_its_limits_and_depends_on_the_seed():
    boxes = torch.tensor([[100.0, 100.0, 200.0, 300.0]]).repeat(1000, 1)
    seeds, clips = torch.tensor([1, 2]), torch.arange(2).repeat_interleave(500)
    jittered = jitter_boxes(boxes, clips, seeds, 1000, 1000).split(500)
    moved = (jittered[0] - boxes[:500]) / torch.tensor([100.0, 200.0, 100.0, 200.0])
    low, high = torch.tensor([-0.2, -0.1, -0.1, -0.05]), torch.tensor([0.1, 0.05, 0.2, 0.1])
    assert (moved >= low - 1e-5).all()
    assert (moved <= high + 1e-5).all()
    assert (moved.amin(dim=0) < low + 0.02).all()
    assert (moved.amax(dim=0) > high - 0.02).all()
    assert torch.equal(jitter_boxes(boxes[:500], clips[:500], seeds[1:], 1000, 1000), jittered[1])
    assert not torch.equal(jittered[0], jittered[1])


def test_jitter_draws_four_numbers_a_box_from_the_stream_of_its_clip():
    seeds, counts = torch.tensor([5, -3, 7, 2**62]), [2, 0, 1, 3]
    boxes = [torch.rand(count, 4).sort(dim=1).values * 60 for count in counts]
    low, high = torch.tensor([-0.2, -0.1, -0.1, -0.05]), torch.tensor([0.1, 0.05, 0.2, 0.1])
    expected = []
    for box, seed in zip(boxes, seeds):
        shift = low + (high - low) * uniform(seed[None], 4 * len(box)).view(-1, 4)
        size = (box[:, 2:] - box[:, :2]).repeat(1, 2)
        expected.append(clip_boxes(box + shift * size, 64, 64))
    clips = clip_indices(boxes)
    assert clips.tolist() == [0, 0, 2, 3, 3, 3]
    jittered = jitter_boxes(torch.cat(boxes), clips, seeds, 64, 64)
    assert torch.equal(jittered, torch.cat(expected))


def test_boxes_are_clipped_to_the_frame():
    assert clip_boxes(torch.tensor([[-5.0, -1.0, 300.0, 90.0]]), 80, 200).tolist() == [[0, 0, 200, 80]]


def test_unknown_names_are_config_errors():
    with pytest.raises(ConfigError, match=r"META_ARCHITECTURE.*did you mean 'ActionDetector'"):
        small("ActionDetecter")
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.NAME"):
        small("ActionDetector", "MODEL.BACKBONE.NAME", "ResNet")
    with pytest.raises(ConfigError, match=r"MODEL\.ROI_HEAD\.NAME"):
        small("ActionDetector", "MODEL.ROI_HEAD.NAME", "Fancy")


def test_weights_depend_on_the_seed():
    first, again, other = (small("MaskedAutoencoder", "SEED", seed) for seed in (1, 1, 2))
    assert torch.equal(first.decoder.head.weight, again.decoder.head.weight)
    assert not torch.equal(first.decoder.head.weight, other.decoder.head.weight)


def test_init_as_published():
    """Uniform within 1 / sqrt(fan in), and normal truncated at one standard deviation."""
    cfg = get_cfg()
    keys = ("MODEL.BACKBONE.EMBED_DIM", 384, "MODEL.BACKBONE.NUM_HEADS", 6, "MODEL.BACKBONE.DEPTH", 1)
    cfg.merge_from_list([*keys, "MODEL.DECODER.DEPTH", 1, "MODEL.DECODER.EMBED_DIM", 1536])
    own = build_model(cfg)
    cfg.MODEL.INIT = "published"
    model = build_model(cfg)
    bound = (3 * 2 * 16 * 16) ** -0.5
    embedding = model.backbone.patch_embed.proj
    for parameter in (embedding.weight, embedding.bias):
        assert parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert own.backbone.patch_embed.proj.weight.std().item() == pytest.approx(
        (2 / (384 + 1536)) ** 0.5, rel=0.01
    )
    assert not own.backbone.patch_embed.proj.bias.any()
    assert model.mask_token.abs().max() <= 0.02
    assert model.mask_token.std().item() == pytest.approx(0.02 * 0.5396, rel=0.05)
    assert own.mask_token.std().item() == pytest.approx(0.02, rel=0.05)
    same = [name for name, value in own.state_dict().items() if torch.equal(value, model.state_dict()[name])]
    assert len(own.state_dict()) - len(same) == 3
    cfg.MODEL.META_ARCHITECTURE = "ActionDetector"
    assert build_model(cfg).roi_head.classifier.weight.std().item() == pytest.approx(2e-5, rel=0.01)
    cfg.MODEL.INIT = "xavier"
    assert build_model(cfg).roi_head.classifier.weight.std().item() == pytest.approx(0.02, rel=0.01)
