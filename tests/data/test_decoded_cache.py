"""Caches of decoded frames return the frames of the file, and keep within their size."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vmae_det.data.catalog import get_dataset
from vmae_det.data.datasets import LabeledVideos, UnlabeledVideos
from vmae_det.data.decoded_cache import VideoCache
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import VideoReader

FRAME_BYTES = 512 * 512 * 3  # a video of four frames is 3 MB


class Video(VideoReader):
    def __init__(self, damaged=-1):
        self.path, self.times, self.rate = Path("video.mp4"), np.arange(4) / 10, Fraction(10)
        self.damaged, self.decoded = damaged, 0

    def _read(self, wanted):
        if self.damaged in wanted:
            raise DataError("a frame is damaged", self.path)
        self.decoded += len(wanted)
        return np.stack([np.full((512, 512, 3), index, np.uint8) for index in wanted])


def test_a_video_in_the_cache_is_not_opened_again():
    cache, video = VideoCache(3), Video()
    first = cache.get("a", lambda: video).frames(np.array([3, 1, 1]))
    decoded = video.decoded
    again = cache.get("a", lambda: pytest.fail("opened again")).frames(np.array([3, 1, 1]))
    assert first[:, 0, 0, 0].tolist() == again[:, 0, 0, 0].tolist() == [3, 1, 1]
    assert video.decoded == decoded
    assert cache.get("a", Video).times.tolist() == video.times.tolist()


def test_a_full_cache_decodes_only_the_frames_of_a_clip():
    cache, video = VideoCache(5), Video()
    cache.get("a", Video)
    reader = cache.get("b", lambda: video)  # 3 of 5 MB are used
    assert reader.frames(np.array([2]))[0, 0, 0, 0] == 2
    assert video.decoded <= 2  # one to know the size
    decoded = video.decoded
    assert cache.get("b", lambda: video) is video
    assert video.decoded == decoded, "its size is known"


def test_a_damaged_frame_matters_only_to_clips_that_contain_it():
    video = Video(damaged=3)
    reader = VideoCache(100).get("a", lambda: video)
    assert reader.frames(np.array([0, 2])).shape[0] == 2
    with pytest.raises(DataError, match="damaged"):
        reader.frames(np.array([3]))


def test_a_damaged_video_is_decoded_for_the_cache_only_once():
    cache, video = VideoCache(100), Video(damaged=3)
    cache.get("a", lambda: video)
    decoded = video.decoded
    assert cache.get("a", lambda: video) is video
    assert video.decoded == decoded


@pytest.mark.parametrize(("task", "dataset"), [("pretrain", UnlabeledVideos), ("finetune", LabeledVideos)])
def test_clips_are_the_same_with_and_without_the_cache(tiny_cfg, task, dataset):
    samples = []
    for megabytes in (0, 100):
        cfg = tiny_cfg(task, "DATALOADER.CACHE_MB", megabytes)
        clips = dataset(cfg, get_dataset(cfg.DATASETS.TRAIN[0], ""), training=True)
        samples.append([clips[epoch, 0][0]["video"] for epoch in (0, 1, 0)])
    for plain, cached in zip(*samples):
        assert np.array_equal(plain, cached)
    assert not np.array_equal(samples[1][0], samples[1][1])
