"""Write the video files of synthetic datasets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], rate: int) -> None:
    """Write an H.264 video with one key frame per second. The same frames give the same bytes.

    Args:
        frames: uint8 RGB (height, width, 3).
        size: width and height.
        rate: frames per second.
    """
    # One thread and no look-ahead: otherwise x264's output differs from run to run.
    options = {"preset": "veryfast", "crf": "20", "x264-params": "threads=1:rc-lookahead=0:mbtree=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = rate
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
