"""`benchmark loader-memory`: memory of annotations of AVA's size, with one loader worker and with many.

`python -m vmae_det.benchmarks.loader_memory FOLDER WORKERS` is one measurement, in a separate process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler, Dataset
from tqdm import tqdm

from vmae_det.benchmarks.synthetic_annotations import TRAIN_ROWS, write_training_set
from vmae_det.config import get_cfg
from vmae_det.data.bad_samples import FaultTolerantDataset
from vmae_det.data.catalog import DatasetSpec
from vmae_det.data.datasets import ActionKeyframes
from vmae_det.data.worker_pool import FaultTolerantLoader
from vmae_det.utils.errors import UserError

_BATCHES = 20  # per worker
_ACCESSES = 2_000  # keyframes that each batch reads


@dataclass(frozen=True)
class Memory:
    """Proportional set sizes, in bytes, of the main process and its loader workers together.

    Args:
        workers: number of loader workers.
        with_annotations, without: of runs that differ only in the annotations.
    """

    workers: int
    with_annotations: int
    without: int

    @property
    def annotations(self) -> int:
        """Memory of the annotations."""
        return self.with_annotations - self.without


def benchmark_loader_memory(workers: Sequence[int] = (1, 2, 4, 8), repeats: int = 3) -> list[Memory]:
    """Return medians of `repeats` runs for each number of workers.

    Raises:
        UserError: the operating system does not provide the memory of processes.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise UserError("benchmark loader-memory reads /proc/PID/smaps_rollup, which only Linux has")
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("large", TRAIN_ROWS), ("small", 10)):
            write_training_set(Path(folder) / name, rows)
        return [
            Memory(number, *(_median(Path(folder) / name, number, repeats) for name in ("large", "small")))
            for number in tqdm(workers, unit="number of workers", leave=False)
        ]


def report(results: list[Memory]) -> str:
    """Return a table with a line for each number of workers, in MB."""
    lines = ["loader workers   total, MB   without annotations   annotations"]
    for result in results:
        sizes = (result.with_annotations, result.without, result.annotations)
        lines.append("{:14d}{:12.0f}{:22.0f}{:14.0f}".format(result.workers, *(size / 1e6 for size in sizes)))
    return "\n".join(lines)


def to_json(results: list[Memory]) -> dict[str, Any]:
    """Return the results as JSON data."""
    return {"runs": [asdict(result) | {"annotations": result.annotations} for result in results]}


class _AnnotationReads(Dataset):
    """Reads annotations as training does, without decoding videos."""

    def __init__(self, keyframes: ActionKeyframes) -> None:
        self.keyframes = keyframes

    def path_of(self, index: int) -> Path:
        return self.keyframes.path_of(index % len(self.keyframes))

    def __getitem__(self, key: tuple[int, int]) -> list[int]:
        rng = np.random.default_rng(key)
        for index in rng.integers(len(self.keyframes), size=_ACCESSES):
            self.keyframes.path_of(index)
            self.keyframes.keyframes[index]
        return [key[1]]


def _median(folder: Path, workers: int, repeats: int) -> int:
    command = [sys.executable, "-m", __name__, str(folder), str(workers)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(repeats)]
    return int(statistics.median(int(run.stdout) for run in runs))


def _measure(folder: Path, workers: int) -> int:
    spec = DatasetSpec(
        name="AVA's size",
        type="detection",
        videos=folder / "videos",
        annotations=folder / "annotations.csv",
        label_map=folder / "actions.pbtxt",
    )
    dataset = _AnnotationReads(ActionKeyframes(get_cfg(), spec, training=True))
    batches = iter(
        FaultTolerantLoader(
            FaultTolerantDataset(dataset, True, 0, workers),
            BatchSampler([(0, number) for number in range(100 * workers)], 1, drop_last=False),
            list,
            None,
            workers=workers,
            seconds=60.0,
            finish=lambda _, batch: batch,
        )
    )
    for _ in range(_BATCHES * workers):
        next(batches)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return sum(_proportional_set_size(pid) for pid in (os.getpid(), *children))


def _proportional_set_size(pid: int | str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    print(_measure(Path(sys.argv[1]), int(sys.argv[2])))
