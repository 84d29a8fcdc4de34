"""The readers torchcodec and nvdec with a stand-in for torchcodec, which needs neither FFmpeg nor a GPU."""

import contextlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from numbered_videos import Recipe, numbers, write_numbered, x264

from vmae_det.utils.errors import ConfigError
from vmae_det.video.readers import open_video
from vmae_det.video.readers.base import get_reader_class


class _Fallback:
    def __init__(self, reason):
        self.reason = reason

    def __bool__(self):
        return bool(self.reason)

    def __str__(self):
        return f"[CUDA] Fallback status: {self.reason or 'No fallback required'}"


class StandIn:
    """torchcodec's interface, as far as the readers use it. Decodes with PyAV, on the CPU."""

    def __init__(self):
        self.devices, self.backends = [], []
        self.fallback, self.error, self.shift, self.lost = "", None, 0.0, 0

    def modules(self):
        package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
        package.ffmpeg_major_version, package.decoders = 5, decoders
        decoders.VideoDecoder, decoders.set_cuda_backend = self.open, self.set_backend
        return {"torchcodec": package, "torchcodec.decoders": decoders}

    @contextlib.contextmanager
    def set_backend(self, name):
        self.backends.append(name)
        yield

    def open(self, url, *, dimension_order, num_ffmpeg_threads, device):
        assert (dimension_order, num_ffmpeg_threads) == ("NHWC", 1)
        self.devices.append(device)
        return _Decoder(self, open_video(url.removeprefix("file:"), "pyav"))


class _Decoder:
    def __init__(self, owner, reader):
        self.owner, self.reader, self.cpu_fallback = owner, reader, _Fallback(owner.fallback)

    def __len__(self):
        return len(self.reader) - self.owner.lost

    def get_frames_at(self, indices):
        if self.owner.error:
            raise self.owner.error
        times = self.reader.times[indices] + self.reader.start + self.owner.shift
        frames = torch.from_numpy(self.reader.frames(np.array(indices)))
        return SimpleNamespace(data=frames, pts_seconds=torch.from_numpy(times))


@pytest.fixture
def stand_in(monkeypatch):
    stand_in = StandIn()
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose current CUDA device is number 3."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_numbered(tmp_path_factory.mktemp("v") / "video", Recipe(options=x264(keyint=12)))


def test_each_reader_decodes_on_its_device(stand_in, gpu, video):
    wanted = np.array([30, 2, 2])
    for name in ("torchcodec", "nvdec"):
        reader = open_video(video, name)
        frames = reader.frames(wanted)
        assert reader.uses_torchcodec
        assert frames.dtype == np.uint8
        assert numbers(frames) == [30, 2, 2]
        assert [index for index, _ in reader.stream(55)] == [55, 56, 57, 58, 59]
    assert stand_in.devices == ["cpu", "cuda:3"]
    assert stand_in.backends == ["beta"]
    assert [get_reader_class(name).uses_cuda for name in ("auto", "torchcodec", "nvdec")] == [0, 0, 1]


def test_frames_are_reduced_after_decoding(stand_in, video):
    frames = open_video(video, "torchcodec", short_side=32).frames(np.array([40, 3]))
    assert frames.shape == (2, 32, 48, 3)
    assert frames.flags.c_contiguous
    assert numbers(frames) == [40, 3]


@pytest.mark.parametrize("reader", ["torchcodec", "nvdec"])
@pytest.mark.parametrize(
    "recipe", [Recipe(options=x264(keyint=12, open_gop=1, bframes=3)), Recipe(suffix=".ts")]
)
def test_files_that_it_may_read_differently_are_read_by_pyav(stand_in, gpu, tmp_path, recipe, reader):
    opened = open_video(write_numbered(tmp_path / "video", recipe), reader)
    assert not opened.uses_torchcodec
    assert numbers(opened.frames(np.arange(60))) == list(range(60))
    assert stand_in.devices == []


def test_only_eight_bit_420_is_decoded_by_nvdec(stand_in, gpu, tmp_path):
    path = write_numbered(tmp_path / "video", Recipe(pix_fmt="yuv420p10le", options=x264(keyint=12)))
    assert open_video(path, "torchcodec").uses_torchcodec
    assert not open_video(path, "nvdec").uses_torchcodec


@pytest.mark.parametrize(
    ("change", "at_opening"),
    [
        ({"error": RuntimeError("CUDA error")}, False),
        ({"shift": 0.04}, False),
        ({"lost": 1}, True),
        ({"fallback": "Falling back due to: Video not supported"}, True),
    ],
)
def test_pyav_reads_the_file_if_torchcodec_fails(stand_in, gpu, video, change, at_opening):
    vars(stand_in).update(change)
    reader = open_video(video, "nvdec")
    assert reader.uses_torchcodec != at_opening
    assert numbers(reader.frames(np.array([7, 8, 50]))) == [7, 8, 50]
    assert not reader.uses_torchcodec


def test_a_missing_package_or_ffmpeg_is_one_clear_error(stand_in, monkeypatch, video):
    sys.modules["torchcodec"].ffmpeg_major_version = None
    with pytest.raises(ConfigError, match=r"shared libraries of FFmpeg.*apt-get install ffmpeg"):
        open_video(video, "torchcodec")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(
        ConfigError, match=r"torchcodec is not installed; run pip install 'vmae_det\[gpu-decode\]'"
    ):
        open_video(video, "torchcodec")


def test_nvdec_without_gpu_driver_library_or_in_a_forked_process(stand_in, monkeypatch, video):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="nvdec needs an NVIDIA GPU"):
        open_video(video, "nvdec")

    def forked():
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", forked)
    with pytest.raises(ConfigError, match="forked process"):
        open_video(video, "nvdec")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    stand_in.fallback = "Falling back due to: NVcuvid unavailable"
    with pytest.raises(ConfigError, match="NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"):
        open_video(video, "nvdec")
