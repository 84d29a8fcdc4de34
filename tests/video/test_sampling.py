import numpy as np
import pytest
import torch

from vmae_det.data import datasets
from vmae_det.data.loader import build_dataset, build_train_dataset, build_train_loader
from vmae_det.video.sampling import evenly_spaced_segments, nearest_frames, random_segments, target_clip


def test_random_frame_of_each_segment():
    """20 frames in 4 segments of 5: each frame of each segment occurs, and no other."""
    rng = np.random.default_rng(0)
    clips = np.stack([random_segments(20, 4, rng) for _ in range(300)])
    for segment in range(4):
        assert set(clips[:, segment]) == set(range(5 * segment, 5 * segment + 5))


def test_segments_of_unequal_length_cover_the_video():
    """10 frames in 4 segments start at 0, 2, 5 and 7."""
    rng = np.random.default_rng(0)
    clips = np.stack([random_segments(10, 4, rng) for _ in range(300)])
    assert [sorted(set(column.tolist())) for column in clips.T] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    ("frames", "clips", "expected"),
    [
        (40, 1, [[5, 15, 25, 35]]),
        (40, 2, [[2, 12, 22, 32], [7, 17, 27, 37]]),
        (40, 5, [[1, 11, 21, 31], [3, 13, 23, 33], [5, 15, 25, 35], [7, 17, 27, 37], [9, 19, 29, 39]]),
        (2, 2, [[0, 0, 1, 1], [0, 0, 1, 1]]),
    ],
)
def test_test_clips_are_evenly_spaced_within_segments(frames, clips, expected):
    placed = [evenly_spaced_segments(frames, 4, number, clips).tolist() for number in range(clips)]
    assert placed == expected


def test_short_video_repeats_frames():
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert random_segments(2, 4, rng).tolist() == [0, 0, 1, 1]
        assert random_segments(1, 4, rng).tolist() == [0, 0, 0, 0]


class RecordingReader:
    """A reader of 50 black frames that records which ones are requested."""

    def __init__(self):
        self.requested = []

    def __len__(self):
        return 50

    def frames(self, indices):
        self.requested.append(list(map(int, indices)))
        return np.zeros((len(indices), 72, 120, 3), dtype=np.uint8)


@pytest.fixture
def reader(monkeypatch):
    """The reader of every video."""
    reader = RecordingReader()
    monkeypatch.setattr(datasets, "open_video", lambda *_, **__: reader)
    return reader


@pytest.mark.parametrize("clips", [2, 5, 10])
def test_views_in_time_and_space(tiny_cfg, reader, monkeypatch, clips):
    """`clips` x 3 views: every clip three times, with the left, center and right crop of its frames."""
    lefts = []
    crop = datasets.transforms.crop
    monkeypatch.setattr(
        datasets.transforms,
        "crop",
        lambda clip, top, left, h, w: lefts.append(left) or crop(clip, top, left, h, w),
    )
    cfg = tiny_cfg("finetune", "TEST.NUM_CLIPS", clips, "TEST.NUM_CROPS", 3, "INPUT.SAMPLING_RATE", 4)
    dataset = build_dataset(cfg, "classification", cfg.DATASETS.TEST[0], training=False)
    views = 3 * clips
    assert len(dataset) == views * len(dataset.files)
    samples = [dataset[0, index][0] for index in range(views, 2 * views)]
    assert {sample["video_index"] for sample in samples} == {1}
    starts = [requested[0] for requested in reader.requested]
    # The last clip of 4 frames at stride 4 starts at 50 - 13 = 37.
    evenly = [round(37 * number / (clips - 1)) for number in range(clips)]
    assert starts == [start for start in evenly for _ in range(3)]
    assert all(np.diff(requested).tolist() == [4, 4, 4] for requested in reader.requested)
    # 72 x 120 becomes 64 x 107.
    assert lefts == [0, 22, 43] * clips


def test_views_of_segments(tiny_cfg, reader):
    cfg = tiny_cfg(
        "finetune",
        "TEST.NUM_CLIPS",
        2,
        "TEST.NUM_CROPS",
        3,
        "INPUT.SAMPLING",
        "segments",
        "INPUT.NUM_FRAMES",
        10,
    )
    dataset = build_dataset(cfg, "classification", cfg.DATASETS.TEST[0], training=False)
    for index in range(6):
        assert dataset[0, index][0]["video"].shape == (3, 10, 64, 64)
    first, second = list(range(1, 50, 5)), list(range(3, 50, 5))
    assert reader.requested == [first] * 3 + [second] * 3


def test_training_clips_of_segments(tiny_cfg, reader):
    cfg = tiny_cfg("finetune", "INPUT.SAMPLING", "segments", "INPUT.NUM_FRAMES", 10, "INPUT.SAMPLING_RATE", 4)
    dataset = build_train_dataset(cfg, "classification")
    for epoch in (0, 0, 1):
        dataset[epoch, 3]
    once, again, later = reader.requested
    assert [frame // 5 for frame in once] == list(range(10))
    assert once == again
    assert once != later


def test_pretraining_sampling_is_dense(tiny_cfg, reader):
    build_train_dataset(tiny_cfg("pretrain", "INPUT.SAMPLING", "segments"), "pretraining")[0, 0]
    (requested,) = reader.requested
    assert len(set(np.diff(requested))) == 1


# ---------------------------------------------------------------- targets of pre-training


@pytest.mark.parametrize(
    ("length", "rate", "expected"),
    [
        (1, 2, [26]),
        (16, 2, range(10, 42, 2)),  # the clip itself
        (16, 1, range(18, 34)),
        (32, 1, range(10, 42)),
        (4, 8, [10, 18, 26, 34]),
    ],
)
def test_targets_are_centered_on_the_clip(length, rate, expected):
    """The center of 16 frames at stride 2 from frame 10 is frame 26."""
    assert target_clip(np.arange(10, 42, 2), 2, 100, length, rate).tolist() == list(expected)


def test_target_beyond_the_ends_of_a_video_repeats_frames():
    assert target_clip(np.array([0, 1, 2, 3]), 1, 4, 4, 2).tolist() == [0, 0, 2, 3]


class NumberedReader(RecordingReader):
    """A reader of 50 frames whose pixels are the frame number."""

    def frames(self, indices):
        return super().frames(indices) + np.asarray(indices, dtype=np.uint8)[:, None, None, None]


OTHER_FRAMES = {
    "center": (1, 0, [4]),
    "clip length at stride 1": (0, 1, [2, 3, 4, 5]),
    "twice the frames": (8, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
    "other stride": (4, 4, [-4, 0, 4, 8]),
}


@pytest.mark.parametrize(("frames", "rate", "expected"), OTHER_FRAMES.values(), ids=OTHER_FRAMES)
@pytest.mark.parametrize("training", [True, False])
def test_sample_with_a_target_of_other_frames(tiny_cfg, monkeypatch, frames, rate, expected, training):
    """`expected` are frames relative to the start of a clip of 4 frames at stride 2."""
    reader = NumberedReader()
    monkeypatch.setattr(datasets, "open_video", lambda *_, **__: reader)
    opts = ("MODEL.RECONSTRUCTION.NUM_FRAMES", frames, "MODEL.RECONSTRUCTION.SAMPLING_RATE", rate)
    cfg = tiny_cfg("pretrain", "DATALOADER.REPEATED_AUG", 1, *opts)
    dataset = build_dataset(cfg, "pretraining", cfg.DATASETS.TRAIN[0], training=training)
    for epoch in range(20 if training else 1):
        (sample,) = dataset[epoch, 0]
        video = sample["video"][0, :, 0, 0].tolist()
        assert np.diff(video).tolist() == [2, 2, 2]
        target = [min(max(video[0] + number, 0), 49) for number in expected]
        assert (sample["target"] == torch.tensor(target)[None, :, None, None]).all()
        assert sample["target"].shape == (3, len(expected), 64, 64)
        assert "positions" not in sample
    # Each frame is decoded once, however often it is used.
    assert len(reader.requested) == (20 if training else 1)
    assert reader.requested[-1] == sorted({*video, *target})


@pytest.mark.parametrize("keys", [(0, 0), (4, 2), (4, 0), (0, 2)])
def test_target_equal_to_the_clip_is_not_decoded(tiny_cfg, reader, keys):
    opts = ("MODEL.RECONSTRUCTION.NUM_FRAMES", keys[0], "MODEL.RECONSTRUCTION.SAMPLING_RATE", keys[1])
    (sample,) = build_train_dataset(tiny_cfg("pretrain", "DATALOADER.REPEATED_AUG", 1, *opts), "pretraining")[
        0, 0
    ]
    assert "target" not in sample
    assert [len(requested) for requested in reader.requested] == [4]


@pytest.mark.parametrize("crop", ["multi_scale", "resized", "short_side"])
def test_target_is_cropped_flipped_and_jittered_as_the_video(tiny_cfg, crop):
    """Frames in both are equal, and the video equals that of a run without target."""
    opts = ("INPUT.TRAIN_CROP", crop, "INPUT.COLOR_JITTER", 0.4, "DATALOADER.REPEATED_AUG", 4)
    target = ("MODEL.RECONSTRUCTION.NUM_FRAMES", 8, "MODEL.RECONSTRUCTION.SAMPLING_RATE", 1)
    plain = build_train_dataset(tiny_cfg("pretrain", *opts), "pretraining")
    double = build_train_dataset(tiny_cfg("pretrain", *opts, *target), "pretraining")
    for index in range(3):
        for before, after in zip(plain[0, index], double[0, index]):
            assert torch.equal(before["video"], after["video"])
            assert torch.equal(after["target"][:, ::2], after["video"])
            assert not torch.equal(after["target"][:, 1::2], after["video"])


def test_targets_are_stacked_in_a_batch(tiny_cfg):
    cfg = tiny_cfg("pretrain", "DATALOADER.REPEATED_AUG", 2, "MODEL.RECONSTRUCTION.NUM_FRAMES", 1)
    batch = next(iter(build_train_loader(cfg, build_train_dataset(cfg, "pretraining"))))
    assert batch["video"].shape == (8, 3, 4, 64, 64)
    assert batch["target"].shape == (8, 3, 1, 64, 64)


def test_nearest_frames_with_times_outside_and_between():
    """A time in the middle between two frames selects the first of them."""
    assert nearest_frames(np.array([0.0, 1, 2]), np.array([-1, 0.5, 1.5, 9])).tolist() == [0, 0, 1, 2]
    assert nearest_frames(np.array([0.0]), np.array([5.0])).tolist() == [0]
