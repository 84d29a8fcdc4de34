"""`benchmark detect`: CPU time of `vmae-det detect` by stage, what each way to run it gives, and peak memory.

`python -m vmae_det.benchmarks.detect` is a process whose peak memory is measured; standard input names its
weights and video.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.benchmarks.detect_steps import StepTime, measure_steps, report
from vmae_det.benchmarks.synthetic_videos import write_videos
from vmae_det.checkpoint import save_weights
from vmae_det.config import CfgNode
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.inference.person_sources import BoxesFromFile
from vmae_det.inference.predictor import ActionPredictor, read_config
from vmae_det.modeling import build_model
from vmae_det.rendering.detect_video import DetectionSettings, detect_video
from vmae_det.utils.resource_usage import Stopwatch, cpu_seconds, peak_memory
from vmae_det.video.readers import open_video

# The parts of the report, and the stages of the pipeline that each sums up.
PARTS = {
    "decode": ("decode",),
    "persons": ("persons",),
    "transform": ("transform", "batch"),
    "model": ("model",),
    "draw": ("draw",),
    "encode": ("encode",),
}
_PERSON_BOXES = ((0.05, 0.1, 0.5, 0.95), (0.5, 0.1, 0.95, 0.95))
_GOP = 60  # frames between I-frames of synthetic videos


@dataclass(frozen=True)
class DetectBenchmark:
    """Result of the benchmark.

    Attributes:
        seconds_of_video: length of the video.
        parts: CPU seconds by part, with one stage at a time; medians over the repeats.
        whole: total CPU seconds of the same runs.
        wall: wall-clock seconds with all stages in parallel; median.
        peaks: peak memory in bytes of a fresh process, by minutes of video.
        precision: precision of all but `steps`: that of `detect`.
        steps: times of each way to run the detector; empty: not measured.
    """

    seconds_of_video: float
    parts: dict[str, float]
    whole: float
    wall: float
    peaks: dict[float, int]
    precision: str
    steps: list[StepTime]

    @property
    def share_of_rest(self) -> float:
        """Fraction of the CPU time that is spent outside of the model and the decoder."""
        return 1 - (self.parts["model"] + self.parts["decode"]) / self.whole

    def report(self) -> str:
        """Return a line for each part, then the totals."""
        lines = [f"{'part':12}{'CPU':>9}{'share':>8}"]
        rest = {"other": self.whole - sum(self.parts.values())}
        for name, seconds in (self.parts | rest).items():
            lines.append(f"{name:12}{seconds:7.2f} s{seconds / self.whole:8.1%}")
        lines += [
            f"{'all':12}{self.whole:7.2f} s",
            f"outside of the model and the decoder: {self.share_of_rest:.1%}",
            f"stages in parallel, {self.precision}: {self.wall:.2f} s for {self.seconds_of_video:.1f} s of "
            f"video, {self.seconds_of_video / self.wall:.2f} x real time",
        ]
        if self.steps:
            lines += ["", report(self.steps), ""]
        for minutes, peak in self.peaks.items():
            lines.append(f"peak memory of {minutes:g} minutes: {peak / 1e6:.0f} MB")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return asdict(self) | {"share_of_rest": self.share_of_rest}


def benchmark_detect(
    cfg: CfgNode,
    video: Path | None,
    repeats: int,
    minutes: list[float],
    steps: bool = True,
    size: tuple[int, int] = (340, 256),
) -> DetectBenchmark:
    """Detect with random weights and two given boxes per second, in the precision SOLVER.AMP.

    Args:
        steps: also measure each way to run the detector.
        video: path of a file; None: a synthetic video of ten seconds and of `size`.
        minutes: lengths of synthetic videos for which peak memory is measured.
        size: width and height of synthetic videos.
    """
    with tempfile.TemporaryDirectory(prefix="vmae_det_benchmark_") as name:
        folder = Path(name)
        weights = _random_weights(cfg, folder / "model.pt")
        video = video or _synthetic_video(folder / "short", size, 10)
        cfg = read_config(weights)
        predictor = ActionPredictor(cfg)
        duration = _duration(video)

        def run(predictor: ActionPredictor, stopwatch: Stopwatch, end: float) -> None:
            _run(predictor, video, folder / "out", DetectionSettings(stopwatch=stopwatch, end=end))

        _run(predictor, video, folder / "out", DetectionSettings())  # warm-up
        sequential = [_measure_parts(predictor, video, folder / "out") for _ in range(repeats)]
        walls = [_measure_wall(predictor, video, folder / "out") for _ in range(repeats)]
        del predictor
        times = measure_steps(weights, cfg, duration, repeats, run) if steps else []
        peaks = {m: _peak_memory(weights, _synthetic_video(folder / f"{m:g}", size, 60 * m)) for m in minutes}
    return DetectBenchmark(
        seconds_of_video=duration,
        parts={part: statistics.median(parts[part] for parts, _ in sequential) for part in PARTS},
        whole=statistics.median(total for _, total in sequential),
        wall=statistics.median(walls),
        peaks=peaks,
        precision={"none": "fp32"}.get(cfg.SOLVER.AMP, cfg.SOLVER.AMP),
        steps=times,
    )


def _measure_parts(predictor: ActionPredictor, video: Path, stem: Path) -> tuple[dict[str, float], float]:
    stopwatch = Stopwatch(cpu_seconds)
    start = cpu_seconds()
    _run(predictor, video, stem, DetectionSettings(overlap=False, stopwatch=stopwatch))
    total = cpu_seconds() - start
    return {part: sum(stopwatch.seconds[stage] for stage in stages) for part, stages in PARTS.items()}, total


def _measure_wall(predictor: ActionPredictor, video: Path, stem: Path) -> float:
    start = time.perf_counter()
    _run(predictor, video, stem, DetectionSettings())
    return time.perf_counter() - start


def _run(predictor: ActionPredictor, video: Path, stem: Path, settings: DetectionSettings) -> None:
    detect_video(predictor, video, BoxesFromFile(_boxes(video), video.stem), stem, settings)


def _boxes(video: Path) -> PersonBoxes:
    """Return two persons at each second."""
    seconds = np.arange(int(_duration(video)) + 1, dtype=np.float64)
    rows = len(seconds) * len(_PERSON_BOXES)
    return PersonBoxes(
        videos=np.array([video.stem], dtype=object),
        video=np.zeros(rows, dtype=np.int32),
        timestamp=np.repeat(seconds, len(_PERSON_BOXES)),
        boxes=np.tile(np.array(_PERSON_BOXES), (len(seconds), 1)),
        score=np.ones(rows),
    )


def _duration(video: Path) -> float:
    return float(open_video(video).times[-1])


def _synthetic_video(folder: Path, size: tuple[int, int], seconds: float) -> Path:
    write_videos(folder, *size, _GOP, count=1, seconds=seconds)
    return folder / "000.mp4"


def _random_weights(cfg: CfgNode, path: Path) -> Path:
    ids = tuple(range(1, cfg.MODEL.ROI_HEAD.NUM_CLASSES + 1))
    label_map = {"ids": ids, "names": tuple(f"action {i}" for i in ids), "kinds": ("",) * len(ids)}
    return save_weights(build_model(cfg).state_dict(), cfg.dump(), path, label_map)


def _peak_memory(weights: Path, video: Path) -> int:
    order = json.dumps([str(weights), str(video)])
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=order, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def _measure_memory(weights: str, video: str) -> int:
    """Return the peak memory in bytes of this process, which has done nothing else."""
    path = Path(video)
    _run(ActionPredictor(read_config(weights)), path, path.with_name("out"), DetectionSettings())
    return peak_memory()


if __name__ == "__main__":
    print(_measure_memory(*json.loads(sys.stdin.read())))
