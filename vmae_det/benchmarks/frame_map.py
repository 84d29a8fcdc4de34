"""How long reading and scoring of files of AVA's size takes, and how much memory."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from vmae_det.benchmarks.ava_files import DETECTION_ROWS, AvaFiles, make_ava_files
from vmae_det.evaluation.matching import PROTOCOLS

# Sizes, as parts of the rows asked for, that show whether time grows in proportion.
PARTS = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Run:
    """One evaluation in a process of its own, imports aside.

    Args:
        read, score, seconds: wall-clock seconds of reading, of scoring, and of both.
        processor: seconds of all processors together.
        memory: largest resident memory in bytes, imports included.
    """

    protocol: str
    rows: int
    read: float
    score: float
    seconds: float
    processor: float
    memory: int
    mean_ap: float


def benchmark_frame_map(rows: int = DETECTION_ROWS, repeats: int = 3, progress: bool = True) -> list[Run]:
    """The medians of `repeats` runs for each protocol and for each of PARTS of `rows` detections."""
    results = []
    with tqdm(total=len(PARTS) * len(PROTOCOLS) * repeats, disable=not progress, leave=False) as bar:
        for part in PARTS:
            with tempfile.TemporaryDirectory() as folder:
                files = make_ava_files(Path(folder), round(rows * part))
                for protocol in PROTOCOLS:
                    runs = []
                    for _ in range(repeats):
                        runs.append(_in_own_process(files, protocol))
                        bar.update()
                    results.append(_median(runs))
    return results


def report(runs: Sequence[Run]) -> str:
    """A line for each protocol and size."""
    lines = ["protocol        rows   read s  score s  total s   cpu s  memory GB  us a row"]
    for run in runs:
        lines.append(
            f"{run.protocol:10}{run.rows:10d}{run.read:9.2f}{run.score:9.2f}{run.seconds:9.2f}"
            f"{run.processor:8.2f}{run.memory / 1e9:11.2f}{1e6 * run.seconds / run.rows:10.2f}"
        )
    return "\n".join(lines)


def as_json(runs: Sequence[Run]) -> dict[str, list[dict]]:
    """What json.dump takes."""
    return {"runs": [asdict(run) for run in runs]}


def _in_own_process(files: AvaFiles, protocol: str) -> Run:
    paths = (files.ground_truth, files.detections, files.label_map)
    command = [sys.executable, "-m", __name__, *map(str, paths), protocol]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return Run(**json.loads(answer.stdout))


def _median(runs: list[Run]) -> Run:
    measured = {
        name: statistics.median(getattr(run, name) for run in runs)
        for name in ("read", "score", "seconds", "processor", "memory")
    }
    return Run(runs[0].protocol, runs[0].rows, mean_ap=runs[0].mean_ap, **measured)


def _measure(ground_truth: str, detections: str, label_map: str, protocol: str) -> Run:
    from vmae_det.data.annotations import read_action_csv
    from vmae_det.data.label_map import LabelMap
    from vmae_det.evaluation.frame_map import frame_map

    start, processor = time.perf_counter(), time.process_time()
    truth = read_action_csv(ground_truth, kind="ground_truth")
    found = read_action_csv(detections, kind="detections")
    actions = LabelMap.from_file(label_map)
    have_read = time.perf_counter()
    result = frame_map(truth, found, actions, protocol=protocol)
    end = time.perf_counter()
    return Run(
        protocol,
        len(found),
        have_read - start,
        end - have_read,
        end - start,
        time.process_time() - processor,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        result.mean_ap,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(*sys.argv[1:]))))
