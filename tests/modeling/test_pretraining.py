"""Tokens that the autoencoder predicts, and the pixels that they represent."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vmae_det.config import get_cfg
from vmae_det.modeling import build_model
from vmae_det.modeling.backbones.patch_embedding import to_cubes
from vmae_det.modeling.losses import reconstruction_loss

# Clips of 8 frames of 16 x 16 pixels: 4 time slices of 2 x 2 tokens, 2 of which a tube mask masks.
SLICES, POSITIONS, PATCH = 4, 4, 8

CENTER = ("MODEL.RECONSTRUCTION.NUM_FRAMES", 1)
DOUBLE = ("MODEL.RECONSTRUCTION.NUM_FRAMES", 16, "MODEL.RECONSTRUCTION.SAMPLING_RATE", 1)
CELL = ("MODEL.DECODER.MASK", "running_cell", "MODEL.DECODER.MASK_RATIO", 0.5)


def small(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("INPUT.CROP_SIZE", 16, "INPUT.NUM_FRAMES", 8, "MODEL.BACKBONE.PATCH_SIZE", PATCH),
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 1, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.DECODER.EMBED_DIM", 12, "MODEL.DECODER.DEPTH", 1, "MODEL.DECODER.NUM_HEADS", 2),
            *("MODEL.MASK.RATIO", 0.5, *opts),
        ]
    )
    return build_model(cfg)


def frames(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, number, 16, 16), generator=generator, dtype=torch.uint8)


def batch_of(target=0):
    batch = {"video": frames(8), "seed": torch.tensor([3, 4])}
    return batch | {"target": frames(target, seed=1)} if target else batch


def handed_to_the_decoder(model, batch):
    """Return the shape of the decoder input, the number of predicted tokens, and the shape of the output."""
    seen = []
    model.decoder.register_forward_hook(lambda _, given, made: seen.append((given, made)))
    model(batch)
    ((tokens, number), prediction) = seen[0]
    return tokens.shape[1], number, tuple(prediction.shape[1:])


@pytest.mark.parametrize(
    ("opts", "target", "expected"),
    [
        # Of 16 tokens 8 are visible.
        ((), 0, (16, 8, (8, 2 * 64 * 3))),
        (("MODEL.RECONSTRUCTION.SAMPLING_RATE", 1), 8, (16, 8, (8, 2 * 64 * 3))),
        (DOUBLE, 16, (16, 8, (8, 4 * 64 * 3))),
        (("MODEL.RECONSTRUCTION.NUM_FRAMES", 4), 4, (16, 8, (8, 64 * 3))),
        (CENTER, 1, (10, 2, (2, 64 * 3))),
        (CELL, 0, (12, 4, (4, 2 * 64 * 3))),
        ((*CELL, *DOUBLE), 16, (12, 4, (4, 4 * 64 * 3))),
        ((*CELL, *CENTER), 1, (9, 1, (1, 64 * 3))),
    ],
)
def test_decoder_input_and_output_shapes(opts, target, expected):
    assert handed_to_the_decoder(small(*opts), batch_of(target)) == expected


@pytest.mark.parametrize(
    ("opts", "target", "expected"),
    [
        ((), 8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (DOUBLE, 16, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        (("MODEL.RECONSTRUCTION.NUM_FRAMES", 4), 4, [[0], [1], [2], [3]]),
        (CENTER, 1, [[0]]),
    ],
)
def test_a_time_slice_predicts_its_share_of_the_target(opts, target, expected):
    """Return clips whose pixels are the index of their frame."""
    model = small(*opts, "MODEL.RECONSTRUCTION.NORMALIZE", False)
    mask = torch.tensor([[True, False, False, True] * SLICES])
    clip = torch.arange(target).view(1, 1, target, 1, 1).expand(1, 3, target, 16, 16)
    prediction, cubes = model.reconstruct(torch.zeros(1, 3, 8, 16, 16), mask, model.normalization(clip))
    assert prediction.shape == cubes.shape
    pixels = (cubes * 255).round().view(len(expected), 2, len(expected[0]), PATCH * PATCH * 3)
    assert torch.equal(pixels, torch.tensor(expected)[:, None, :, None].expand(pixels.shape).float())


def test_the_center_frame_is_predicted_by_the_slice_that_contains_it():
    """Frame 8 // 2 = 4 is in slice 2, of frames 4 and 5."""
    model = small(*CENTER).eval()
    predictions = model(batch_of(1))
    slices = predictions["predicted"].view(2, SLICES, POSITIONS)
    assert slices.any(dim=2).tolist() == [[False, False, True, False]] * 2
    assert torch.equal(slices[:, 2], predictions["mask"].view(2, SLICES, POSITIONS)[:, 2])
    assert (model.target_tokens.start, model.target_tokens.stop) == (8, 12)
    assert predictions["reconstruction"].shape == (2, 3, 1, 16, 16)


@pytest.mark.parametrize(
    ("opts", "target"), [((), 0), (DOUBLE, 16), (CENTER, 1), (CELL, 0), ((*CELL, *DOUBLE), 16)]
)
def test_the_reconstruction_differs_from_the_target_only_in_predicted_cubes(opts, target):
    model = small(*opts).eval()
    batch = batch_of(target)
    predictions = model(batch)
    clip = batch.get("target", batch["video"])
    mask, predicted = (predictions[name][:, model.target_tokens] for name in ("mask", "predicted"))
    before, after = (
        to_cubes(video, model.target_tubelet, PATCH) for video in (clip, predictions["reconstruction"])
    )
    assert torch.equal((before != after).any(dim=2), predicted)
    assert not (predicted & ~mask).any()
    assert predicted.sum(dim=1).tolist() == [int(mask[0].sum()) // (2 if CELL[0] in opts else 1)] * 2


@pytest.mark.parametrize("opts", [(), CELL, (*CELL, *DOUBLE)])
def test_the_loss_is_over_the_predicted_tokens_only(opts):
    """Changes of the target affect the loss only where a token is predicted."""
    model = small(*opts).eval()
    target = 16 if DOUBLE[0] in opts else 8
    batch = batch_of(target)
    loss, predicted = (model(batch)[name] for name in ("loss", "predicted"))
    for token in range(SLICES * POSITIONS):
        time, place = divmod(token, POSITIONS)
        share = target // SLICES
        y, x = (PATCH * number for number in divmod(place, 2))
        changed = batch["target"].clone()
        changed[0, :, time * share, y : y + PATCH, x : x + PATCH] //= 2
        same = model({**batch, "target": changed})["loss"] == loss
        assert same.tolist() == [not predicted[0, token], True]


def test_the_training_loss_is_the_mean_loss_of_evaluation():
    for opts, target in (((*CELL, *DOUBLE), 16), (CENTER, 1)):
        model = small(*opts)
        batch = batch_of(target)
        torch.testing.assert_close(model.train()(batch)["loss"], model.eval()(batch)["loss"].mean())


@pytest.mark.parametrize(("opts", "target"), [(DOUBLE, 16), (CENTER, 1)])
def test_the_fast_path_of_training_equals_the_plain_one(opts, target):
    model = small(*opts).eval()
    batch = batch_of(target)
    predictions = model(batch)
    prediction, cubes = model.reconstruct(
        model.normalization(batch["video"]), predictions["mask"], model.normalization(batch["target"])
    )
    torch.testing.assert_close(predictions["loss"], reconstruction_loss(prediction, cubes, "mse"))


def test_the_decoder_mask_does_not_affect_the_plain_path():
    plain, masked = small(), small(*CELL)
    video, mask = torch.randn(2, 3, 8, 16, 16), torch.tensor([[True, False, False, True] * SLICES] * 2)
    for one, other in zip(plain.reconstruct(video, mask), masked.reconstruct(video, mask)):
        assert torch.equal(one, other)


def test_a_target_equal_to_the_clip_changes_no_bit():
    """Setting the keys to the values of the input, with the same frames as target, equals the default."""
    plain = small()
    named = small("MODEL.RECONSTRUCTION.NUM_FRAMES", 8, "MODEL.RECONSTRUCTION.SAMPLING_RATE", 4)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), named.parameters()))
    batch = batch_of()
    losses = [plain(batch)["loss"], named(batch)["loss"], plain({**batch, "target": batch["video"]})["loss"]]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_only_positions_of_visible_and_predicted_tokens_get_a_gradient():
    """Tokens that the decoder skips do not affect the loss."""
    model = small(*CELL)
    model.positions.requires_grad_()
    batch = {name: value[:1] for name, value in batch_of().items()}
    model(batch)["loss"].backward()
    reached = model.positions.grad.abs().sum(dim=1) > 0
    predictions = model.eval()(batch)
    assert torch.equal(reached, (~predictions["mask"] | predictions["predicted"])[0])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_depth_of_the_decoder(depth):
    assert len(small("MODEL.DECODER.DEPTH", depth).decoder.blocks) == depth


def test_raw_targets_are_pixels_from_0_to_1():
    model = small("MODEL.RECONSTRUCTION.NORMALIZE", False)
    video = frames(8)
    mask = torch.tensor([[True, False, False, True] * SLICES] * 2)
    _, target = model.reconstruct(model.normalization(video), mask)
    torch.testing.assert_close(target, (to_cubes(video, 2, PATCH) / 255)[mask].view(target.shape))


def test_the_last_decoder_block_computes_only_predicted_tokens():
    decoder = small("MODEL.DECODER.DEPTH", 2).decoder
    widths = []
    decoder.blocks[-1].mlp.register_forward_hook(lambda _, given, made: widths.append(made.shape[1]))
    tokens = torch.randn(2, 16, 12)
    plain = tokens
    for block in decoder.blocks:
        plain = block(plain)
    plain = decoder.head(decoder.norm(plain))[:, -8:]
    fast = decoder(tokens, 8)
    assert widths == [16, 8]
    torch.testing.assert_close(fast, plain)
    gradients = [
        torch.autograd.grad(made.square().sum(), list(decoder.parameters())) for made in (fast, plain)
    ]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("opts", [(), CELL, ("MODEL.MASK.TYPE", "frame"), ("MODEL.MASK.TYPE", "random")])
def test_a_training_step_reads_no_value_from_the_device(opts):
    """Meta tensors raise where a shape or a branch would depend on a value."""
    model = small(*opts).train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        loss = model({name: mode.from_tensor(value) for name, value in batch_of().items()})["loss"]
        loss.backward()
    assert loss.shape == ()
