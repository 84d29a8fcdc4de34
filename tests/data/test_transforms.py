from unittest import mock

import numpy as np
import pytest
import torch

from vmae_det.config import get_cfg
from vmae_det.data import datasets, transforms
from vmae_det.data.loader import build_train_dataset
from vmae_det.data.transforms import Clip, make_clip
from vmae_det.video.readers import open_video


def marked_clip(height=60, width=80, box=(20, 10, 40, 50)):
    """A black clip with a white rectangle, and the rectangle as its box."""
    frames = np.zeros((4, height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    frames[:, y1:y2, x1:x2] = 255
    return make_clip(frames, np.array([box]) / [width, height, width, height])


def bright_box(clip):
    """Bounding box of the bright pixels in the first frame."""
    rows, columns = torch.nonzero(clip.frames[0, 0] > 127, as_tuple=True)
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


def assert_box_fits(clip, tolerance=1.5):
    assert clip.boxes[0].tolist() == pytest.approx(bright_box(clip), abs=tolerance)


def test_boxes_are_converted_to_pixels():
    assert marked_clip().boxes.tolist() == [[20, 10, 40, 50]]
    assert_box_fits(marked_clip(), tolerance=0)


def test_resize_scales_boxes():
    clip = transforms.resize(marked_clip(), 30, 120)
    assert clip.frames.shape == (4, 3, 30, 120)
    assert_box_fits(clip)


def test_short_side():
    assert transforms.resize_short_side(marked_clip(), 30).size == (30, 40)
    assert transforms.resize_short_side(marked_clip(80, 60), 30).size == (40, 30)


def test_crop_shifts_and_clips_boxes():
    clip = transforms.crop(marked_clip(), top=20, left=30, height=30, width=30)
    assert clip.size == (30, 30)
    assert clip.boxes.tolist() == [[0, 0, 10, 30]]
    assert_box_fits(clip, tolerance=0)


def test_box_outside_the_crop_is_empty():
    clip = transforms.crop(marked_clip(), top=0, left=50, height=30, width=30)
    assert (clip.boxes[0, 2] - clip.boxes[0, 0]).item() == 0


def test_flip():
    clip = transforms.flip(marked_clip())
    assert clip.boxes.tolist() == [[40, 10, 60, 50]]
    assert_box_fits(clip, tolerance=0)


def test_padding_keeps_boxes_and_uses_the_fill_color():
    clip = transforms.pad_to_multiple(marked_clip(50, 70, (20, 10, 40, 40)), 16, (10.2, 20.0, 30.0))
    assert clip.size == (64, 80)
    assert clip.frames[0, :, -1, -1].tolist() == [10, 20, 30]
    assert_box_fits(clip, tolerance=0)
    assert transforms.pad_to_multiple(clip, 16, (0, 0, 0)) is clip


@pytest.mark.parametrize("crop", ["multi_scale", "short_side", "resized"])
def test_training_crops_have_the_right_size_and_boxes(crop):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *(
                "INPUT.TRAIN_CROP",
                crop,
                "INPUT.CROP_SIZE",
                32,
                "INPUT.TRAIN_SHORT_SIDE",
                40,
                "INPUT.COLOR_JITTER",
                0.1,
            )
        ]
    )
    checked = 0
    for seed in range(30):
        clip = transforms.train_transform(marked_clip(), cfg, np.random.default_rng(seed))
        assert clip.frames.shape == (4, 3, 32, 32)
        assert clip.frames.dtype == torch.uint8
        if (clip.boxes[0, 2:] - clip.boxes[0, :2] > 4).all():
            assert_box_fits(clip, tolerance=2)
            checked += 1
    assert checked > 10


def test_same_random_numbers_give_the_same_clip():
    cfg = get_cfg()
    cfg.INPUT.CROP_SIZE = 32
    first, again, other = (
        transforms.train_transform(marked_clip(), cfg, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, other.frames)


def test_all_frames_get_the_same_color_jitter():
    clip = make_clip(np.full((5, 16, 16, 3), (100, 150, 200), dtype=np.uint8))
    changed = transforms.jitter_color(clip, 0.5, np.random.default_rng(0)).frames
    assert torch.equal(changed, changed[:1].expand_as(changed))
    assert not torch.equal(changed, clip.frames)


def test_test_crops_cover_the_longer_side():
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.CROP_SIZE", 32, "INPUT.TEST_SHORT_SIDE", 32])
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, None, :, None], (2, 32, 96, 3)).copy()
    lefts = [int(transforms.view_crop(make_clip(ramp), cfg, n, 3).frames[0, 0, 0, 0]) for n in range(3)]
    assert lefts == [0, 32, 64]
    assert int(transforms.view_crop(make_clip(ramp), cfg).frames[0, 0, 0, 0]) == 32


def test_test_frames_are_padded_to_full_patches():
    cfg = get_cfg()
    cfg.INPUT.TEST_SHORT_SIDE = 50
    clip = transforms.full_frame_transform(marked_clip(), cfg)
    assert clip.size == (64, 80)
    assert_box_fits(clip)


def test_video_is_channels_first():
    video = transforms.to_video(Clip(torch.zeros(4, 3, 5, 6, dtype=torch.uint8), torch.zeros(0, 4)))
    assert video.shape == (3, 4, 5, 6)
    assert video.is_contiguous()


@pytest.mark.parametrize(
    ("training", "crop", "side"),
    [
        (True, "multi_scale", 340),
        (True, "short_side", 256),
        (True, "resized", 915),
        (False, "multi_scale", 250),
    ],
)
def test_no_crop_enlarges_the_decoded_frames(training, crop, side):
    cfg = get_cfg()
    cfg.INPUT.TRAIN_CROP, cfg.INPUT.TRAIN_SHORT_SIDE, cfg.INPUT.TEST_SHORT_SIDE = crop, 256, 250
    assert transforms.needed_short_side(cfg, training) == side
    if training and crop != "short_side":
        clip = Clip(torch.zeros(1, 3, side, 2 * side, dtype=torch.uint8), torch.zeros(0, 4))
        cuts = []
        with mock.patch.object(transforms, "crop", lambda clip, *cut: cuts.append(cut[2:]) or clip):
            for seed in range(300):
                transforms.train_transform(clip, cfg, np.random.default_rng(seed))
        assert min(map(min, cuts)) >= 224


def test_large_frames_are_decoded_at_a_reduced_size(tiny_cfg, monkeypatch):
    requested = []

    def opened(path, reader, short_side):
        requested.append(short_side)
        return open_video(path, reader, short_side=short_side)

    monkeypatch.setattr(datasets, "open_video", opened)
    for smaller, expected in ((True, 64), (False, None)):
        cfg = tiny_cfg("detect", "DATALOADER.DECODE_SMALLER", smaller)
        build_train_dataset(cfg, "detection")[0, 0]
        assert requested.pop() == expected
