"""Frames, sizes and colors of INPUT.CONVENTION "published", computed by hand from the authors' code."""

import numpy as np
import pytest
import torch

from vmae_det.config import get_cfg
from vmae_det.data import color, transforms
from vmae_det.data.augmentation import ClipAugmentation
from vmae_det.data.transforms import Clip, make_clip
from vmae_det.video.sampling import sample_keyframe_clip, sample_test_clip, sample_training_clip


def config(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(list(opts))
    return cfg


def node(convention="published", *opts):
    return config("INPUT.CONVENTION", convention, *opts).INPUT


def test_training_clip_spans_64_frames():
    rng = np.random.default_rng(0)
    clips = [sample_training_clip(node(), 70, rng) for _ in range(100)]
    # 0, 64/15, 128/15, ... rounded down, and 63 instead of 64
    steps = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
    assert {tuple(clip - clip[0]) for clip in clips} == {tuple(steps)}
    assert {int(clip[0]) for clip in clips} == set(range(6))  # numpy's randint(64, 70) minus 64
    clip = sample_training_clip(node("centred"), 70, rng)
    assert (np.diff(clip) == 4).all()


def test_short_videos_end_in_their_last_frame():
    rng = np.random.default_rng(0)
    # linspace(0, 40, 10) rounded down, then the last frame
    expected = [0, 4, 8, 13, 17, 22, 26, 31, 35, *[39] * 7]
    assert sample_training_clip(node(), 40, rng).tolist() == expected
    assert sample_training_clip(node(), 3, rng).tolist() == [2] * 16


def test_test_clips_start_at_multiples_of_the_stride():
    # 300 frames: 75 at stride 4, starts 59 * n / 4 rounded down: 0, 14, 29, 44, 59
    clips = [sample_test_clip(node(), 300, number, 5) for number in range(5)]
    assert [clip[0] for clip in clips] == [0, 56, 116, 176, 236]
    assert all((np.diff(clip) == 4).all() for clip in clips)
    assert [sample_test_clip(node("centred"), 300, number, 5)[0] for number in (1, 2)] == [60, 120]
    assert sample_test_clip(node(), 20, 1, 5).tolist() == [0, 4, 8, 12, *[16] * 12]


def test_segments():
    rng = np.random.default_rng(0)
    segments = node("published", "INPUT.SAMPLING", "segments")
    clips = np.array([sample_training_clip(segments, 60, rng) for _ in range(400)])
    assert clips.min(0).tolist() == list(range(0, 48, 3))  # 60 // 16 frames each, 12 unused
    assert clips.max(0).tolist() == list(range(2, 48, 3))
    few = sample_training_clip(segments, 10, rng)
    assert len(few) == 16
    assert (np.diff(few) >= 0).all()
    assert few.max() < 10
    first, second = (sample_test_clip(segments, 48, number, 2).tolist() for number in range(2))
    assert first == list(range(0, 48, 3))
    assert second == list(range(1, 48, 3))  # half of 3, rounded down


@pytest.mark.parametrize(
    ("convention", "first", "last"), [("published", -31, 29), ("centred", -32, 28), ("auto", -32, 28)]
)
def test_keyframe_clip(convention, first, last):
    frames = sample_keyframe_clip(node(convention), 100, 1000) - 100
    assert (frames[0], frames[-1]) == (first, last)
    assert (np.diff(frames) == 4).all()


def test_long_side_is_rounded_down():
    assert transforms.resized_size(480, 854, 256, transforms.pixel_rounding(node())) == (
        256,
        455,
    )  # of 455.47
    assert transforms.resized_size(360, 640, 256, transforms.pixel_rounding(node())) == (
        256,
        455,
    )  # of 455.11
    assert transforms.resized_size(348, 640, 256, transforms.pixel_rounding(node())) == (
        256,
        470,
    )  # of 470.80
    assert transforms.resized_size(348, 640, 256, transforms.pixel_rounding(node("centred"))) == (256, 471)
    assert transforms.resized_size(320, 640, 256, transforms.pixel_rounding(node())) == (256, 512)
    cfg = config("INPUT.CONVENTION", "published", "INPUT.TEST_SHORT_SIDE", 64, "INPUT.CROP_SIZE", 64)
    ramp = np.tile(np.arange(99, dtype=np.uint8)[None, None, :, None], (1, 64, 1, 3))
    lefts = [int(transforms.view_crop(make_clip(ramp), cfg, n, 3).frames[0, 0, 0, 0]) for n in range(3)]
    assert lefts == [0, 17, 35]  # 17.5, rounded down


def test_hue_saturation_and_value_change_in_steps():
    red = np.zeros((2, 2, 2, 3), dtype=np.uint8)
    red[..., 0] = 200
    assert color.shift_hsv(red, 60, 0, 0)[0, 0, 0].tolist() == [0, 200, 0]  # plus 120 degrees
    assert color.shift_hsv(red, -60, 0, 0)[0, 0, 0].tolist() == [0, 0, 200]
    assert color.shift_hsv(red, 0, 0, 26)[1, 1, 1].tolist() == [226, 0, 0]
    assert color.shift_hsv(red, 0, 0, 80)[0, 0, 0].tolist() == [255, 0, 0]
    washed = color.shift_hsv(red, 0, -26, 0)[0, 0, 0].tolist()
    assert washed == [200, pytest.approx(200 * 26 / 255, abs=1), pytest.approx(200 * 26 / 255, abs=1)]


def test_jitter_is_drawn_once_per_clip_and_within_its_limits(monkeypatch):
    drawn = []
    monkeypatch.setattr(color, "shift_hsv", lambda frames, *steps: drawn.append(steps) or frames)
    clip, rng = make_clip(np.zeros((2, 4, 4, 3), dtype=np.uint8)), np.random.default_rng(0)
    for _ in range(2000):
        transforms.jitter_hsv(clip, 20.0, 0.1, rng)
    steps = np.array(drawn)
    assert steps.min(0).tolist() == [-10, -26, -26]  # degrees / 2, and a tenth of 255, rounded as Python does
    assert steps.max(0).tolist() == [10, 26, 26]


def test_rand_augment_before_the_crop():
    sizes = []
    for before_crop in (False, True):
        keys = ("INPUT.RAND_AUGMENT", "rand-m7-n4", "INPUT.RAND_AUGMENT_WHOLE_FRAME", before_crop)
        augment = ClipAugmentation(config(*keys))
        augment.rand_augment = lambda clip, rng: sizes.append(clip.size) or clip
        clip = Clip(torch.zeros(1, 3, 30, 40, dtype=torch.uint8), torch.zeros(0, 4))
        cut = augment(clip, np.random.default_rng(0), lambda clip, rng: transforms.crop(clip, 0, 0, 8, 8))
        assert cut.size == (8, 8)
    assert sizes == [(8, 8), (30, 40)]
