"""Unreadable and unusual video files, as they occur in folders of videos.

Each maker gets a path without suffix and returns the file that it has written.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numbered_videos import Recipe, write_numbered, x264
from PIL import Image

Maker = Callable[[Path], Path]


def empty(path: Path) -> Path:
    path = path.with_suffix(".mp4")
    path.touch()
    return path


def text(path: Path) -> Path:
    path = path.with_suffix(".mp4")
    path.write_text("not a video at all\n" * 100)
    return path


def zeros(path: Path) -> Path:
    path = path.with_suffix(".mp4")
    path.write_bytes(bytes(5000))
    return path


def playlist(path: Path) -> Path:
    path = path.with_suffix(".mp4")
    path.write_text("#EXTM3U\n#EXTINF:10,\nsound.mp4\n#EXT-X-ENDLIST\n")
    return path


def picture(path: Path) -> Path:
    path = path.with_suffix(".mp4")
    with path.open("wb") as file:
        Image.new("RGB", (64, 64)).save(file, "PNG")
    return path


def audio_only(path: Path) -> Path:
    path = path.with_suffix(".mp4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def no_frames(path: Path) -> Path:
    """A video stream without frames."""
    path = path.with_suffix(".mp4")
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    return path


def truncated(path: Path) -> Path:
    """An mp4 without its end, which contains the index."""
    path = write_numbered(path, Recipe())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def avi_that_is_mp4(path: Path) -> Path:
    return write_numbered(path, Recipe()).rename(path.with_suffix(".avi"))


def rotated(path: Path) -> Path:
    return write_numbered(path, Recipe(rotation=90))


def variable_rate(path: Path) -> Path:
    """25 frames per second, with gaps of up to one second."""
    stamps = np.cumsum(np.random.default_rng(0).choice([1, 2, 25], 60))
    return write_numbered(path, Recipe(stamps=[int(stamp) for stamp in stamps], time_base=Fraction(1, 25)))


def ten_bit(codec: str, suffix: str, options: dict[str, str]) -> Maker:
    return lambda path: write_numbered(
        path, Recipe(suffix=suffix, codec=codec, pix_fmt="yuv420p10le", options=options)
    )


def one_frame(path: Path) -> Path:
    return write_numbered(path, Recipe(count=1))


def very_long(path: Path) -> Path:
    """One hour at one frame per second."""
    return write_numbered(path, Recipe(count=3600, rate=1, size=(32, 32), options=x264(keyint=250)))


UNREADABLE: dict[str, Maker] = {
    "truncated": truncated,
    "empty": empty,
    "audio_only": audio_only,
    "no_frames": no_frames,
    "picture": picture,
    "text": text,
    "zeros": zeros,
    "playlist": playlist,
}
# The error of each, after "cannot be read as a video: ".
REASONS = {
    "truncated": "Invalid data",
    "empty": "it is empty",
    "audio_only": "it has no video stream",
    "no_frames": "it has no frames",
    "picture": "not a supported video format",
    "text": r"Invalid data .*\(1900 bytes\)",
    "zeros": r"\(5000 bytes\)",
    "playlist": "Invalid data|not a supported video format",
}
ODD: dict[str, Maker] = {
    "avi_that_is_mp4": avi_that_is_mp4,
    "rotated": rotated,
    "variable_rate": variable_rate,
    "h264_ten_bit": ten_bit("libx264", ".mp4", x264(keyint=12)),
    "hevc_ten_bit": ten_bit("libx265", ".mkv", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "one_frame": one_frame,
    "very_long": very_long,
}


def copy_detection_set(mini_ava: Path, folder: Path) -> tuple[Path, list[Path]]:
    """Copy MiniAVA's training set and its four videos, to be damaged. Return dataset file and videos."""
    text = (mini_ava / "train.yaml").read_text()
    for key in ("annotations", "label_map", "person_boxes", "excluded"):
        text = text.replace(f"{key}: ", f"{key}: {mini_ava}/")
    videos = folder / "videos"
    videos.mkdir(parents=True)
    (folder / "set.yaml").write_text(text)
    rows = (mini_ava / "annotations" / "mini_ava_train.csv").read_text().splitlines()
    copies = [videos / f"{name}.mp4" for name in sorted({row.split(",")[0] for row in rows})]
    for copy in copies:
        copy.write_bytes((mini_ava / "videos" / copy.name).read_bytes())
    return folder / "set.yaml", copies
