import pytest
import torch
import torch.nn.functional as F

from vmae_det.config import check_config, get_cfg
from vmae_det.modeling import build_model
from vmae_det.modeling.person_heads import PersonPredictions, evenly_spread
from vmae_det.utils.errors import ConfigError

SIZE = (40, 56)  # of the clips: 5 x 7 patches of 8 pixels
CROWDED = torch.tensor([[x, y, x + 9.0, y + 14.0] for x in (0.5, 12, 24, 36) for y in (1.0, 20)])
CUT = torch.tensor([[0.0, 0.0, 5.0, 16.0], [48.0, 22.0, 56.0, 40.0], [30.0, 0.0, 31.5, 40.0]])
BOXES = [CROWDED, torch.zeros(0, 4), CUT, torch.tensor([[8.0, 2.0, 44.0, 38.0], [20.0, 10.0, 30.0, 30.0]])]


def make(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "ActionDetector", "INPUT.CROP_SIZE", 32, "INPUT.NUM_FRAMES", 4),
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.BACKBONE.PATCH_SIZE", 8, "MODEL.ROI_HEAD.NUM_CLASSES", 5),
            *("MODEL.PERSON_HEAD.NAME", "FcosPersonHead", "MODEL.PERSON_HEAD.CHANNELS", 16),
            *("MODEL.PERSON_HEAD.NUM_CONVS", 1, *opts),
        ]
    )
    check_config(cfg)
    return build_model(cfg)


def make_batch(boxes=BOXES, size=SIZE):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (len(boxes), 3, 4, *size), generator=generator, dtype=torch.uint8)
    labels = [(torch.rand(len(own), 5, generator=generator) < 0.3).float() for own in boxes]
    return {"video": video, "boxes": boxes, "labels": labels, "seed": torch.arange(len(boxes))}


def every_box(model):
    """Make a model return all boxes, to compare them."""
    model.person_head.score_threshold, model.person_head.nms_threshold = 0.0, 1.0
    model.person_head.max_persons = 1000
    torch.nn.init.normal_(model.person_head.regression.bbox_reg.weight)
    torch.nn.init.constant_(model.person_head.regression.bbox_reg.bias, 2.0)
    return model.eval()


PUBLISHED_RANGES = {1 / 4: (0, 4), 1 / 2: (4, 8), 1: (8, 16), 2: (16, 1e9)}  # in patches, by side of a cell


def slow_losses(predictions, boxes, complete, patch=8, ranges=PUBLISHED_RANGES):
    """The losses of FCOS by one loop over clips, cells and people."""
    class_loss, box_loss, centerness_loss, count = 0.0, 0.0, 0.0, 0
    for clip, people in enumerate(boxes):
        for cell, (x1, y1, x2, y2) in enumerate(predictions.cells.tolist()):
            if not complete[clip]:
                continue
            stride, x, y = x2 - x1, (x1 + x2) / 2, (y1 + y2) / 2
            low, high = (patch * limit for limit in ranges[stride / patch])
            found = None
            for box in people.tolist():
                left, top, right, bottom = x - box[0], y - box[1], box[2] - x, box[3] - y
                sides = (left, top, right, bottom)
                area = (box[2] - box[0]) * (box[3] - box[1])
                finds = min(sides) > 0 and low < max(sides) <= high
                if finds and (found is None or area < found[0]):
                    found = area, box, sides
            p = predictions.logits[clip, cell].double().sigmoid()
            if found is None:
                class_loss += -0.75 * p**2 * (1 - p).log()
                continue
            class_loss += -0.25 * (1 - p) ** 2 * p.log()
            _, box, (left, top, right, bottom) = found
            d = predictions.distances[clip, cell].double() * stride
            ours = (x - d[0], y - d[1], x + d[2], y + d[3])
            overlap = [min(ours[i + 2], box[i + 2]) - max(ours[i], box[i]) for i in (0, 1)]
            overlap = max(overlap[0], 0) * max(overlap[1], 0)
            union = (ours[2] - ours[0]) * (ours[3] - ours[1]) + found[0] - overlap
            hull = [max(ours[i + 2], box[i + 2]) - min(ours[i], box[i]) for i in (0, 1)]
            hull = hull[0] * hull[1]
            box_loss += 1 - (overlap / union - (hull - union) / hull)
            target = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            logit = predictions.centerness[clip, cell].double()
            target = torch.tensor(target**0.5, dtype=torch.float64)
            centerness_loss += F.binary_cross_entropy_with_logits(logit, target)
            count += 1
    assert count > 10
    return {"class": class_loss / count, "box": box_loss / count, "centerness": centerness_loss / count}


@pytest.mark.parametrize(
    ("complete", "opts", "ranges"),
    [
        ((True,) * 4, (), PUBLISHED_RANGES),
        ((False, True, True, False), (), PUBLISHED_RANGES),
        (
            (True,) * 4,
            ("MODEL.PERSON_HEAD.SCALES", (2.0, 1.0), "MODEL.PERSON_HEAD.MAX_DISTANCE", 4.0),
            {1 / 2: (0, 2), 1: (2, 1e9)},
        ),
    ],
)
def test_losses_equal_a_slow_computation(complete, opts, ranges):
    head = make(*opts).person_head
    generator = torch.Generator().manual_seed(1)
    cells = head([torch.randn(4, 35, 24)] * len(ranges), (5, 7)).cells
    shape = (4, len(cells))
    predictions = PersonPredictions(
        torch.randn(shape, generator=generator),
        10 * torch.rand(*shape, 4, generator=generator),
        torch.randn(shape, generator=generator),
        cells,
    )
    losses = head.losses(predictions, BOXES, torch.tensor(complete))
    for name, expected in slow_losses(predictions, BOXES, complete, ranges=ranges).items():
        assert losses[name].item() == pytest.approx(float(expected), rel=1e-4), name


def test_published_ranges_and_strides():
    """Of a patch of 16 pixels: strides 4, 8, 16, 32; ranges up to 64, 128, 256 and more pixels."""
    head = make("MODEL.BACKBONE.PATCH_SIZE", 16).person_head
    cells = head([torch.zeros(1, 14 * 14, 24)] * 4, (14, 14)).cells
    for box, strides in (
        ((112, 112, 172, 172), [4]),  # any cell in it is less than 60 pixels from its sides
        ((60, 60, 160, 160), [4, 8]),  # from 50 to 100
        ((0, 0, 224, 224), [8, 16]),  # from 112 to 224
        ((0, 0, 700, 224), [32]),  # from 476 to 700
    ):
        _, has_person = head.assign(cells, [torch.tensor([box]).float()])
        found = cells[has_person[0]]
        assert (found[:, 2] - found[:, 0]).unique().tolist() == strides
    assert evenly_spread(12, 4) == (3, 6, 9, 12)
    assert evenly_spread(24, 4) == (6, 12, 18, 24)
    assert evenly_spread(3, 4) == (1, 2, 3, 3)
    assert evenly_spread(1, 4) == (1, 1, 1, 1)


def test_without_complete_keyframes_all_gradients_are_zero():
    """Data-parallel training needs a gradient of each parameter in each step."""
    model = make().train()
    batch = make_batch() | {"complete_persons": torch.zeros(4, dtype=torch.bool)}
    losses = model(batch)
    sum(losses.values()).backward()
    assert {name for name in losses if not losses[name]} == {
        *("person_class_loss", "person_box_loss", "person_centerness_loss"),
    }
    assert all((p.grad == 0).all() for p in model.person_head.parameters())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("boxes", [BOXES, BOXES[1:2], [BOXES[1]] * 2], ids=["some", "none", "none_twice"])
def test_trains_on_crowded_empty_and_cut_keyframes(boxes):
    model = make().train()
    losses = model(make_batch(boxes))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_action_loss_is_that_without_a_person_head():
    model, plain = make(), make("MODEL.PERSON_HEAD.NAME", "")
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    batch = make_batch()
    assert model.train()(batch)["action_loss"] == plain.train()(batch)["loss"]
    scored = batch | {"person_scores": [torch.rand(len(own)) for own in BOXES]}
    for actual, expected in zip(model.eval()(scored)["scores"], plain.eval()(scored)["scores"]):
        assert torch.equal(actual, expected)


def test_found_people_are_scored_as_given_ones():
    model = every_box(make())
    batch = {"video": make_batch()["video"]}
    found = model(batch)
    given = model(batch | {"boxes": found["boxes"], "person_scores": found["person_scores"]})
    assert sum(map(len, found["boxes"])) > 20
    for actual, expected in zip(found["scores"], given["scores"]):
        assert torch.equal(actual, expected)
    boxes, scores = model.find_persons(batch)
    assert all(torch.equal(*pair) for pair in zip(boxes, found["boxes"]))
    assert all(torch.equal(*pair) for pair in zip(scores, found["person_scores"]))
    assert all((own.diff() <= 0).all() for own in scores)


def test_people_do_not_depend_on_the_batch():
    model = every_box(make())
    video, sizes = make_batch()["video"], torch.tensor([[50.0, 37.0]]).expand(4, 2)

    def candidates(clips):
        _, predictions = model.tokens_and_persons(model.normalization(video[clips]))
        return model.person_head.candidates(predictions, sizes[clips])

    together = candidates(slice(4))
    for clip in range(4):
        for alone, all_clips in zip(candidates(slice(clip, clip + 1)), together):
            torch.testing.assert_close(alone[0], all_clips[clip], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 56), (8, 8), (8, 120), (24, 40)])
def test_boxes_are_inside_the_frame_without_its_padding(size):
    model = every_box(make())
    frame = torch.tensor([size[1] - 7.0, size[0] - 5.0])
    found = model({"video": make_batch(size=size)["video"], "size": [frame] * 4})
    boxes = torch.cat(found["boxes"])
    assert len(boxes)
    assert (boxes >= 0).all()
    assert (boxes <= frame.repeat(2)).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


def test_nobody_is_found():
    model = make("MODEL.PERSON_HEAD.SCORE_THRESHOLD", 1.0, "MODEL.ROI_HEAD.NAME", "AttentionRoIHead").eval()
    found = model({"video": make_batch()["video"]})
    assert [tuple(own.shape) for own in found["boxes"]] == [(0, 4)] * 4
    assert [tuple(own.shape) for own in found["scores"]] == [(0, 5)] * 4


def test_suppression():
    head = make("MODEL.PERSON_HEAD.MAX_PERSONS", 2).person_head
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 11], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.34, 0.6])
    kept, kept_scores = head.suppress(boxes.float(), scores)
    assert kept.tolist() == boxes[[1, 2]].tolist()
    assert kept_scores.tolist() == scores[[1, 2]].tolist()


@pytest.mark.parametrize("name", ["VideoViT", "VJepa2ViT"])
def test_tokens_after_blocks_are_those_of_the_blocks(name):
    model = make("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.DEPTH", 3).eval()
    backbone, video = model.backbone, torch.randn(2, 3, 4, 16, 24)
    seen = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda module, inputs, x: seen.append(x))
    tokens, taken = backbone.forward_blocks(video, (3, 1, 1), time_slice=1)
    assert len(seen) == 3  # one pass
    assert torch.equal(tokens, backbone(video))
    for own, number in zip(taken, (3, 1, 1)):
        assert torch.equal(own, seen[number - 1][:, 6:12])


def test_class_tokens_are_not_taken():
    model = make("MODEL.BACKBONE.CLASS_TOKEN", True, "MODEL.ACTIVATION_CHECKPOINTING", True)
    tokens, taken = model.backbone.forward_blocks(torch.randn(1, 3, 4, 16, 24), (1, 2), time_slice=0)
    assert tokens.shape == (1, 12, 24)
    torch.testing.assert_close(model.backbone.norm(taken[1]), tokens[:, :6])


def test_the_head_sees_the_keyframe():
    """The keyframe is frame T // 2 of the clip: of 4 frames and tubelets of 2, in the second slice."""
    model = make("MODEL.BACKBONE.DEPTH", 1).eval()
    model.backbone.blocks[0] = torch.nn.Identity()
    video = torch.randn(1, 3, 4, 16, 16)
    _, before = model.tokens_and_persons(video)
    video[:, :, :2] = 0
    assert torch.equal(model.tokens_and_persons(video)[1].logits, before.logits)
    video[:, :, 2] = 0
    assert not torch.equal(model.tokens_and_persons(video)[1].logits, before.logits)


def test_config_errors():
    with pytest.raises(
        ConfigError, match=r"PERSON_HEAD.BLOCKS: must have a value for each of the 4 maps.*got \(1, 2\)"
    ):
        make("MODEL.PERSON_HEAD.BLOCKS", (1, 2))
    with pytest.raises(ConfigError, match=r"MODEL.PERSON_HEAD.BLOCKS: .*after the last of the 2 blocks"):
        make("MODEL.PERSON_HEAD.BLOCKS", (1, 1, 2, 3))
    for scales in ((4.0, 1.0), (0.5, 1.0), (3.0,)):
        with pytest.raises(ConfigError, match=r"PERSON_HEAD.SCALES: must be successive values of \(4"):
            make("MODEL.PERSON_HEAD.SCALES", scales)
    with pytest.raises(ConfigError, match=r"MODEL.PERSON_HEAD.TRAIN_ALONE: True, but there is no person"):
        make("MODEL.PERSON_HEAD.NAME", "", "MODEL.PERSON_HEAD.TRAIN_ALONE", True)
    with pytest.raises(ConfigError, match=r"TEST.PERSON_BOXES: model, but the model has no person head"):
        make("MODEL.PERSON_HEAD.NAME", "", "TEST.PERSON_BOXES", "model")
    with pytest.raises(ConfigError, match=r"MODEL.PERSON_HEAD.NAME: .*Fcos.*did you mean"):
        make("MODEL.PERSON_HEAD.NAME", "FcosPersonHea")


def test_hiera_is_refused():
    pytest.importorskip("hiera")
    stages = ("MODEL.BACKBONE.NAME", "Hiera", "MODEL.BACKBONE.STAGES", (1, 1, 1, 1))
    sizes = ("MODEL.BACKBONE.DEPTH", 4, "MODEL.BACKBONE.EMBED_DIM", 64, "MODEL.BACKBONE.NUM_HEADS", 8)
    with pytest.raises(ConfigError, match=r"MODEL.PERSON_HEAD.NAME: .*which Hiera does not return"):
        make(*stages, *sizes, "MODEL.BACKBONE.PATCH_SIZE", 32)
