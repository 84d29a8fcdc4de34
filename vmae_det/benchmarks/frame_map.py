"""`benchmark frame-map`: time and memory of frame-mAP at the size of AVA's validation set.

`python -m vmae_det.benchmarks.frame_map GROUND_TRUTH DETECTIONS LABEL_MAP PROTOCOL` is one measurement, which
runs in a fresh process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vmae_det.benchmarks.synthetic_annotations import AvaFiles, write_ava_files
from vmae_det.evaluation.matching import PROTOCOLS
from vmae_det.utils.resource_usage import cpu_seconds, peak_memory

# Fractions of the requested rows, to show that time grows linearly.
_SHARES = (0.25, 0.5, 1.0)
_MEASURED = ("read_s", "score_s", "total_s", "cpu_s", "peak_mb")


def benchmark_frame_map(rows: int, repeats: int = 3, progress: bool = True) -> list[dict[str, Any]]:
    """Score synthetic files with a quarter, half and all of `rows` detections under each protocol.

    Returns:
        An entry for each size and protocol: rows, csv_mb, protocol, the medians of read_s, score_s, total_s
        (the entire process, with its imports), cpu_s (user and system) and peak_mb, and the runs. 1 MB is 1e6
        bytes.
    """
    results = []
    with (
        tempfile.TemporaryDirectory(prefix="vmae_det_benchmark_") as folder,
        tqdm(total=len(_SHARES) * (1 + repeats * len(PROTOCOLS)), desc="runs", disable=not progress) as bar,
    ):
        for share in _SHARES:
            files = write_ava_files(Path(folder), round(rows * share))
            bar.update()
            for protocol in PROTOCOLS:
                runs = []
                for _ in range(repeats):
                    runs.append(_measure_in_fresh_process(files, protocol))
                    bar.update()
                medians = {name: statistics.median(run[name] for run in runs) for name in _MEASURED}
                size = files.detections.stat().st_size / 1e6
                entry = {"rows": files.num_detections, "csv_mb": size, "protocol": protocol}
                results.append(entry | medians | {"runs": runs})
    return results


def report(results: list[dict[str, Any]], repeats: int) -> str:
    """Return a table with a line for each size and protocol."""
    titles = ("read", "score", "total", "CPU", "peak")
    lines = [
        f"median of {repeats} fresh processes; total includes start and imports, CPU is user + system",
        f"{'rows':>9}  {'CSV':>6}  {'protocol':9}  " + "  ".join(f"{title:>7}" for title in titles),
    ]
    for entry in results:
        seconds = "  ".join(f"{entry[name]:5.2f} s" for name in ("read_s", "score_s", "total_s", "cpu_s"))
        size, peak = f"{entry['csv_mb']:3.0f} MB", f"{entry['peak_mb'] / 1000:.2f} GB"
        lines.append(f"{entry['rows']:9d}  {size:>6}  {entry['protocol']:9}  {seconds}  {peak}")
    return "\n".join(lines)


def _measure_in_fresh_process(files: AvaFiles, protocol: str) -> dict[str, float]:
    paths = (files.ground_truth, files.detections, files.label_map)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", __name__, *map(str, paths), protocol],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout) | {"total_s": time.perf_counter() - start}


def _measure(ground_truth: str, detections: str, label_map: str, protocol: str) -> dict[str, float]:
    from vmae_det.evaluation.frame_map import frame_map
    from vmae_det.formats.ava_csv import read_action_csv
    from vmae_det.formats.label_map import LabelMap

    start = time.perf_counter()
    truth = read_action_csv(ground_truth, kind="ground_truth")
    detected = read_action_csv(detections, kind="detections")
    labels = LabelMap.from_file(label_map)
    read = time.perf_counter()
    result = frame_map(truth, detected, labels, protocol=protocol)
    return {
        "read_s": read - start,
        "score_s": time.perf_counter() - read,
        "cpu_s": cpu_seconds(),
        "peak_mb": peak_memory() / 1e6,
        "mAP": result.mean_ap,
    }


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:])))
