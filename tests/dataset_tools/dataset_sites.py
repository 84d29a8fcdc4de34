"""Synthetic videos and dataset sites (official files and videos) for the tests of this folder."""

from fractions import Fraction

import av
import numpy as np
import pytest

from vmae_det.cli.main import main
from vmae_det.dataset_tools.prepare import video_jobs
from vmae_det.video.probe import probe_video

_CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}
_OPTIONS = {".avi": {"bf": "2"}}  # as in UCF101


def write_video(path, frames=8, size=(128, 96), rate=25, times=None):
    """Write a video whose frames get brighter; `times` are in milliseconds, None: by the frame rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(_CODECS[path.suffix], rate=rate, options=_OPTIONS.get(path.suffix))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = unit = Fraction(1, 1000)
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), (40 + 20 * number) % 216, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


class Site:
    """Synthetic `annotations` and `videos` of a dataset, and the command that prepares it."""

    def __init__(self, folder, name):
        self.name = name
        self.annotations, self.videos = folder / "site" / "annotations", folder / "site" / "videos"
        self.root = folder / "datasets"
        self.annotations.mkdir(parents=True)
        self.videos.mkdir()

    @property
    def output(self):
        return self.root / self.name

    def write(self, name, *lines, end="\n"):
        (self.annotations / name).write_text("".join(line + end for line in lines))

    def prepare(self, *more):
        paths = ("--annotations", self.annotations, "--videos", self.videos, "--root", self.root)
        return main([str(word) for word in ("prepare", self.name, *paths, "--workers", "1", *more)])

    def rows(self, list_name):
        return (self.output / f"{list_name}.csv").read_text().splitlines()


@pytest.fixture
def in_process(monkeypatch):
    """Process videos in this process, because workers start slowly; return the list of processed items."""
    monkeypatch.setattr(
        "vmae_det.dataset_tools.check.context.probe_videos",
        lambda paths, decode, workers: {path: probe_video(str(path), decode) for path in paths},
    )
    processed = []

    def run(function, items, workers, timeout, description):
        for item in items:
            processed.append(item)
            yield item, function(item)

    monkeypatch.setattr(video_jobs, "isolated_map", run)
    return processed


@pytest.fixture
def interrupted(in_process, monkeypatch):
    """A function that interrupts the next preparation before its N-th video."""

    def arm(number):
        run = video_jobs.isolated_map

        def stop(*args):
            for count, result in enumerate(run(*args), start=1):
                if count == number:
                    monkeypatch.setattr(video_jobs, "isolated_map", run)
                    raise KeyboardInterrupt
                yield result

        monkeypatch.setattr(video_jobs, "isolated_map", stop)

    return arm
