"""What annotations of AVA's size cost in memory, with one loader process and with many."""

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

from vmae_det.config import get_cfg
from vmae_det.data.bad_samples import FaultTolerantDataset
from vmae_det.data.catalog import DatasetSpec
from vmae_det.data.datasets import ActionKeyframes
from vmae_det.data.worker_pool import FaultTolerantLoader
from vmae_det.formats.ava_csv import ActionBoxes, write_action_csv
from vmae_det.utils.errors import UserError

# AVA v2.2's training set, rounded.
KEYFRAMES, ROWS, ACTIONS = 210_000, 1_200_000, 80
_KEYFRAMES_PER_VIDEO = 897
_BATCHES = 20  # that each process makes
_LOOKS = 2_000  # keyframes that each batch looks at


@dataclass(frozen=True)
class Memory:
    """Proportional set sizes, in bytes, of the training process and its loader processes together.

    Args:
        with_annotations, without: of runs that differ in the annotations alone.
    """

    workers: int
    with_annotations: int
    without: int

    @property
    def annotations(self) -> int:
        """What the annotations cost."""
        return self.with_annotations - self.without


def benchmark_loader_memory(workers: Sequence[int] = (1, 2, 4, 8), repeats: int = 3) -> list[Memory]:
    """Medians of `repeats` runs for each number of processes; UserError where the system does not tell."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise UserError("the memory of processes is measured through /proc/PID/smaps_rollup, which Linux has")
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("large", ROWS), ("small", 10)):
            _make(Path(folder) / name, rows)
        return [
            Memory(number, *(_median(Path(folder) / name, number, repeats) for name in ("large", "small")))
            for number in tqdm(workers, unit="number of processes", leave=False)
        ]


def report(results: list[Memory]) -> str:
    """A line for each number of processes, in MB."""
    lines = ["loader processes   all, MB   without annotations   annotations"]
    for result in results:
        sizes = (result.with_annotations, result.without, result.annotations)
        lines.append("{:16d}{:10.0f}{:22.0f}{:14.0f}".format(result.workers, *(size / 1e6 for size in sizes)))
    return "\n".join(lines)


def as_json(results: list[Memory]) -> dict[str, Any]:
    """What json.dump takes."""
    return {"runs": [asdict(result) | {"annotations": result.annotations} for result in results]}


def _make(folder: Path, rows: int) -> None:
    """Made-up ground truth, a label map, and empty video files of the right names."""
    rng = np.random.default_rng(0)
    keyframes = max(KEYFRAMES * rows // ROWS, 1)
    keyframe = np.sort(np.concatenate([np.arange(keyframes), rng.integers(0, keyframes, rows - keyframes)]))
    videos = np.array([f"video{n:06d}" for n in range(-(-keyframes // _KEYFRAMES_PER_VIDEO))], dtype=object)
    corner = rng.uniform(0, 0.5, (rows, 2))
    boxes = ActionBoxes(
        videos,
        (keyframe // _KEYFRAMES_PER_VIDEO).astype(np.int32),
        keyframe % _KEYFRAMES_PER_VIDEO + 902.0,
        np.hstack([corner, corner + 0.3]).round(3),
        rng.integers(1, ACTIONS + 1, rows).astype(np.int32),
        np.ones(rows),
        rng.integers(0, 10, rows).astype(np.int32),
    )
    write_action_csv(folder / "annotations.csv", boxes, kind="ground_truth")
    items = (f'item {{ name: "action {n}" id: {n} }}\n' for n in range(1, ACTIONS + 1))
    (folder / "actions.pbtxt").write_text("".join(items), encoding="utf-8")
    (folder / "videos").mkdir()
    for name in videos:
        (folder / "videos" / f"{name}.mp4").touch()


class _Looks(Dataset):
    """Looks at annotations as training does, without a video."""

    def __init__(self, keyframes: ActionKeyframes) -> None:
        self.keyframes = keyframes

    def path_of(self, index: int) -> Path:
        return self.keyframes.path_of(index % len(self.keyframes))

    def __getitem__(self, key: tuple[int, int]) -> list[int]:
        rng = np.random.default_rng(key)
        for index in rng.integers(len(self.keyframes), size=_LOOKS):
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
    dataset = _Looks(ActionKeyframes(get_cfg(), spec, training=True))
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
