import numpy as np
import pytest

from vmae_det.data import datasets
from vmae_det.data.loader import build_dataset, build_train_dataset
from vmae_det.data.sampling import placed_segments, random_segments


def test_a_random_frame_of_each_segment():
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
def test_test_clips_lie_evenly_within_the_segments(frames, clips, expected):
    placed = [placed_segments(frames, 4, number, clips).tolist() for number in range(clips)]
    assert placed == expected


def test_a_short_video_repeats_frames():
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert random_segments(2, 4, rng).tolist() == [0, 0, 1, 1]
        assert random_segments(1, 4, rng).tolist() == [0, 0, 0, 0]


class Recording:
    """A reader of 50 black frames that keeps which were asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 50

    def frames(self, indices):
        self.asked.append(list(map(int, indices)))
        return np.zeros((len(indices), 72, 120, 3), dtype=np.uint8)


@pytest.fixture
def reader(monkeypatch):
    """What every video is read by."""
    reader = Recording()
    monkeypatch.setattr(datasets, "open_video", lambda *_: reader)
    return reader


@pytest.mark.parametrize("clips", [2, 5, 10])
def test_views_in_time_and_space(tiny_cfg, reader, monkeypatch, clips):
    """`clips` x 3 views: every clip thrice, with the left, the middle and the right of its frames."""
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
    starts = [asked[0] for asked in reader.asked]
    # The last clip of 4 frames at stride 4 starts at 50 - 13 = 37.
    evenly = [round(37 * number / (clips - 1)) for number in range(clips)]
    assert starts == [start for start in evenly for _ in range(3)]
    assert all(np.diff(asked).tolist() == [4, 4, 4] for asked in reader.asked)
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
    assert reader.asked == [first] * 3 + [second] * 3


def test_training_clips_of_segments(tiny_cfg, reader):
    cfg = tiny_cfg("finetune", "INPUT.SAMPLING", "segments", "INPUT.NUM_FRAMES", 10, "INPUT.SAMPLING_RATE", 4)
    dataset = build_train_dataset(cfg, "classification")
    for epoch in (0, 0, 1):
        dataset[epoch, 3]
    once, again, later = reader.asked
    assert [frame // 5 for frame in once] == list(range(10))
    assert once == again
    assert once != later


def test_pre_training_stays_dense(tiny_cfg, reader):
    build_train_dataset(tiny_cfg("pretrain", "INPUT.SAMPLING", "segments"), "pretraining")[0, 0]
    (asked,) = reader.asked
    assert len(set(np.diff(asked))) == 1
