"""Videos in which every frame shows its number, as black and white blocks that survive compression.

A frame is a grid of 4 x 4 blocks. The top left corner is white and the other three are black, so that a
rotated frame is detected. The twelve blocks between are the bits of the number, lowest first.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def _has_torchcodec() -> bool:
    try:
        import torchcodec
    except (ImportError, OSError, RuntimeError):
        return False
    return bool(getattr(torchcodec, "ffmpeg_major_version", None))


HAS_TORCHCODEC = importlib.util.find_spec("torchcodec") is not None and _has_torchcodec()
needs_torchcodec = pytest.mark.skipif(
    not HAS_TORCHCODEC, reason="torchcodec, or the shared libraries of FFmpeg, are not installed"
)

WHITE, BLACK = 220, 36
_CORNERS = (0, 3, 12, 15)
_BITS = [block for block in range(16) if block not in _CORNERS]


@dataclass(frozen=True)
class Recipe:
    """Parameters of a numbered video.

    Attributes:
        size: width and height.
        stamps: timestamp of each frame in units of `time_base`; None for consecutive frames.
        skip: number of first frames in the file that its edit list excludes from playback.
        rotation: degrees by which players rotate the frames counter-clockwise; they are stored rotated back.
        mirrored: whether players flip the frames horizontally after that.
        aspect: width of a stored pixel relative to its height.
        transfer: code of the transfer characteristic; None if the file does not state it.
    """

    suffix: str = ".mp4"
    codec: str = "libx264"
    count: int = 60
    size: tuple[int, int] = (96, 64)
    pix_fmt: str = "yuv420p"
    rate: int = 25
    options: dict[str, str] = field(default_factory=dict)
    stamps: Sequence[int] | None = None
    time_base: Fraction | None = None
    skip: int = 0
    rotation: int = 0
    mirrored: bool = False
    aspect: Fraction | None = None
    transfer: int | None = None


def x264(**params: object) -> dict[str, str]:
    """Options of libx264: fast, high quality, without scene cuts, and `params`."""
    known = {"scenecut": 0} | params
    return {
        "preset": "veryfast",
        "crf": "18",
        "x264-params": ":".join(f"{key.replace('_', '-')}={value}" for key, value in known.items()),
    }


def numbered_frame(number: int, width: int, height: int) -> np.ndarray:
    """Return the frame of a number, uint8 RGB (height, width, 3)."""
    white = np.zeros(16, dtype=bool)
    white[0] = True
    white[_BITS] = number >> np.arange(len(_BITS)) & 1
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    frame = np.where(white.reshape(4, 4)[rows][:, columns], WHITE, BLACK).astype(np.uint8)
    return np.repeat(frame[:, :, None], 3, axis=2)


def numbers(frames: np.ndarray) -> list[int]:
    """Return the number of each frame of uint8 RGB (n, H, W, 3); -1 if a frame is rotated or unreadable."""
    return [_number(frame) for frame in frames]


def _number(frame: np.ndarray) -> int:
    height, width = frame.shape[:2]
    rows, columns = ((np.arange(4) * 2 + 1) * side // 8 for side in (height, width))
    gray = frame.mean(axis=2)
    reach = max(1, min(height, width) // 16)
    blocks = [gray[y - reach : y + reach, x - reach : x + reach] for y in rows for x in columns]
    white = np.array([block.mean() for block in blocks]) > (WHITE + BLACK) / 2
    if list(white[list(_CORNERS)]) != [True, False, False, False]:
        return -1
    return int((white[_BITS] << np.arange(len(_BITS))).sum())


def write_numbered(
    path: Path, recipe: Recipe, picture: Callable[[int, int, int], np.ndarray] = numbered_frame
) -> Path:
    """Write a video of the frames picture(number, width, height). `path` gets the suffix of the recipe."""
    path = path.with_suffix(recipe.suffix)
    width, height = recipe.size
    shown = (height, width) if recipe.rotation % 180 else (width, height)
    time_base = recipe.time_base or Fraction(1, recipe.rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=dict(recipe.options))
        stream.width, stream.height, stream.pix_fmt = width, height, recipe.pix_fmt
        stream.codec_context.time_base = time_base
        if recipe.aspect is not None:
            stream.codec_context.sample_aspect_ratio = recipe.aspect
        if recipe.transfer is not None:
            stream.codec_context.color_trc = recipe.transfer
        if recipe.rotation or recipe.mirrored:
            stream.set_display_rotation(recipe.rotation, hflip=recipe.mirrored)
        stamps = recipe.stamps if recipe.stamps is not None else range(recipe.count)
        for number, stamp in enumerate(stamps):
            image = picture(number, *shown)[:, :: -1 if recipe.mirrored else 1]
            image = np.ascontiguousarray(np.rot90(image, -recipe.rotation // 90))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=recipe.pix_fmt)
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if recipe.skip:
        _skip_by_edit_list(path, recipe)
    return path


def _skip_by_edit_list(path: Path, recipe: Recipe) -> None:
    """Change the start of the edit list that FFmpeg writes for B-frames (ISO 14496-12, 8.6.6)."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12  # after the version and the entry count: length, start, speed
    with av.open(str(path)) as container:
        ticks = int(recipe.skip / recipe.rate / container.streams.video[0].time_base)
    length, begin = struct.unpack_from(">Ii", data, entry)
    struct.pack_into(">Ii", data, entry, length - length * recipe.skip // recipe.count, begin + ticks)
    path.write_bytes(data)
