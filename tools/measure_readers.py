"""Measure the video readers: python tools/measure_readers.py [VIDEO] [--short-side 256] [--repeats 7]

Without a video, on a generated one of 1920 x 1080 pixels. Prints medians in milliseconds, on one thread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from vmae_det.video.readers import open_video
from vmae_det.video.readers.frame_index import clear_frame_indices


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("video", type=Path, nargs="?")
    parser.add_argument("--short-side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.video or make_video(Path(folder) / "moving.mp4")
        print("| reader | frames | first opening | later opening | opening and 16 frames, stride 4 |")
        print("|---|---|---|---|---|")
        measured = {}
        # Turn by turn, so that what else the machine does falls on all alike.
        for _ in range(args.repeats):
            for reader in ("decord", "pyav"):
                for side in (None, args.short_side):
                    times = measured.setdefault((reader, side), ([], [], []))
                    for kept, action in zip(times, actions(path, reader, side)):
                        kept.append(seconds(action))
        for (reader, side), times in measured.items():
            cells = " | ".join(f"{1000 * statistics.median(kept):.0f} ms" for kept in times)
            print(f"| {reader} | {side or 'full'} | {cells} |")


def actions(path: Path, reader: str, side: int | None) -> list[Callable[[], object]]:
    """What is measured, in this order: an index that was read is kept."""
    clear_frame_indices()
    count = len(open_video(path, "pyav"))
    clear_frame_indices()
    clip = np.arange(16) * 4 + max(0, count - 64) // 2

    def read() -> object:
        return open_video(path, reader, short_side=side).frames(clip)

    return [lambda: open_video(path, reader), lambda: open_video(path, reader), read]


def seconds(action: Callable[[], object]) -> float:
    """That one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def make_video(path: Path, frames: int = 250) -> Path:
    """A noisy picture that moves, in H.264 at libx264's usual settings."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (170, 300, 3)).repeat(8, axis=0).repeat(8, axis=1)
    picture = np.clip(0.6 * cells + 40 + rng.normal(0, 4, cells.shape), 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for k in range(frames):
            view = np.ascontiguousarray(picture[k : k + 1080, 2 * (k % 200) : 2 * (k % 200) + 1920])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
