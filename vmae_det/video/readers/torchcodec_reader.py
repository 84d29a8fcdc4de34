"""Readers based on torchcodec: on the CPU, and on the video decoder of an NVIDIA GPU (NVDEC)."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from vmae_det.utils.errors import ConfigError
from vmae_det.video.readers.base import READER_REGISTRY, VideoLocation, warn_once
from vmae_det.video.readers.fallback import FallbackReader
from vmae_det.video.readers.frame_index import FrameIndex

if TYPE_CHECKING:
    import torch  # imported where it is used, because the other readers do not need it


class _OtherFramesError(RuntimeError):
    """torchcodec returned other frames than the index lists."""


@READER_REGISTRY.register_as("torchcodec")
class TorchcodecReader(FallbackReader):
    """Returns the same frames as PyAVReader. Falls back to it where torchcodec may differ, or fails.

    The times of the returned frames are compared with the frame index.
    """

    _errors = (RuntimeError, IndexError, ValueError, AssertionError)

    def __init__(self, location: VideoLocation, short_side: int | None = None) -> None:
        self._decoders = self._import_decoders()
        super().__init__(location, short_side)

    @classmethod
    def check_available(cls) -> None:
        """Check for torchcodec, FFmpeg and, for nvdec, a GPU; ConfigError if one is missing."""
        cls._import_decoders()

    @property
    def uses_torchcodec(self) -> bool:
        """Whether this file is read by torchcodec, not by PyAV."""
        return self._decoder is not None

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        batch = self._decoder.get_frames_at(wanted.tolist())
        times = batch.pts_seconds.cpu().numpy() / float(self._index.time_base)
        if np.abs(times - self._index.pts[wanted]).max() >= 0.5:
            raise _OtherFramesError("frames of other times were returned")
        frames = _resize(batch.data, *self._size)  # before the copy from the GPU, which it makes smaller
        return frames.contiguous().cpu().numpy()

    def _warn(self, error: Exception) -> None:
        lines = str(error).splitlines() or [type(error).__name__]
        warn_once(self.path, f"cannot be read by torchcodec ({lines[0][:160]}); PyAV reads it")

    def _open(self, device: str = "cpu") -> Any:
        """Return a VideoDecoder; _OtherFramesError if it counts other frames."""
        decoder = self._decoders.VideoDecoder(
            self._location.url, dimension_order="NHWC", num_ffmpeg_threads=1, device=device
        )
        if len(decoder) != len(self._index.pts):
            raise _OtherFramesError(f"it counts {len(decoder)} frames instead of {len(self._index.pts)}")
        return decoder

    @classmethod
    def _import_decoders(cls) -> ModuleType:
        """Return torchcodec.decoders; ConfigError if torchcodec or FFmpeg is not installed."""
        try:
            decoders = importlib.import_module("torchcodec.decoders")
            version = importlib.import_module("torchcodec").ffmpeg_major_version
        except ModuleNotFoundError:
            raise ConfigError(
                "DATALOADER.READER: torchcodec is not installed; run pip install 'vmae_det[gpu-decode]', or "
                "use pyav"
            ) from None
        except (ImportError, OSError, RuntimeError):
            version = None
        if not version:
            raise ConfigError(
                "DATALOADER.READER: torchcodec finds no shared libraries of FFmpeg (libavcodec), or is built "
                "for another version of torch; run apt-get install ffmpeg or conda install ffmpeg (see "
                "docs/guides/readers.md), or use pyav"
            )
        return decoders


@READER_REGISTRY.register_as("nvdec")
class NvdecReader(TorchcodecReader):
    """Decodes on the current CUDA device, and copies the frames to the CPU.

    Frames are resized on the GPU. Colors are converted there too, so they may differ from those of
    PyAVReader by rounding and by the interpolation of chroma. Files other than 8-bit 4:2:0, and files that
    the GPU cannot decode, are read by PyAV.
    """

    uses_cuda = True

    def _problem(self, index: FrameIndex) -> str:
        is_common = index.pixel_format == "yuv420p"
        return super()._problem(index) or ("" if is_common else f"its pixel format is {index.pixel_format}")

    def _open(self, device: str = "cuda") -> Any:
        with self._decoders.set_cuda_backend("beta"):  # NVDEC without FFmpeg; newer versions call it "nvdec"
            decoder = super()._open(f"{device}:{_current_device()}")
        fallback = decoder.cpu_fallback
        if "NVcuvid unavailable" in str(fallback):
            raise ConfigError(
                "DATALOADER.READER: nvdec does not find libnvcuvid of the NVIDIA driver; in a container, set "
                "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video, or use torchcodec or pyav"
            )
        return None if fallback else decoder

    @classmethod
    def _import_decoders(cls) -> ModuleType:
        _current_device()
        return super()._import_decoders()


def _resize(frames: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Resize uint8 frames (n, H, W, 3) on their device, with antialiasing."""
    if frames.shape[1:3] == (height, width):
        return frames
    from torch.nn.functional import interpolate

    images = frames.permute(0, 3, 1, 2)
    images = images.float() if frames.is_cuda else images  # bytes are supported on the CPU only
    images = interpolate(images, (height, width), mode="bilinear", antialias=True)
    if images.is_floating_point():
        images = images.round_().clamp_(0, 255).byte()
    return images.permute(0, 2, 3, 1)


def _current_device() -> int:
    """Return the index of the current CUDA device; ConfigError if CUDA cannot be used."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("DATALOADER.READER: nvdec needs an NVIDIA GPU; use torchcodec or pyav")
    try:
        return torch.cuda.current_device()
    except RuntimeError as error:
        if "fork" not in str(error):
            raise
        raise ConfigError(
            "DATALOADER.READER: nvdec cannot use CUDA in a forked process; start the process with the "
            "multiprocessing method spawn"
        ) from None
