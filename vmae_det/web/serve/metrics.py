"""Metrics in the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from vmae_det.utils.resource_usage import cpu_seconds, peak_memory
from vmae_det.web.serve.jobs import FINISHED, QUEUED, RECEIVING, RUNNING, JobTable
from vmae_det.web.serve.worker import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_START = time.time()


def metrics(table: JobTable, worker: Worker) -> str:
    """Return the metrics of a server."""
    return "".join(_lines(table, worker))


def _lines(table: JobTable, worker: Worker) -> Iterator[str]:
    counts = table.counts()
    unfinished = {state: counts[state] for state in (RECEIVING, QUEUED, RUNNING)}
    yield _metric("vmae_det_jobs", "gauge", "Jobs that have not finished, by state.", unfinished)
    ended = {state: table.ended[state] for state in FINISHED}
    yield _metric("vmae_det_jobs_total", "counter", "Jobs that have finished, by state.", ended)
    yield _metric("vmae_det_queue_length", "gauge", "Jobs that wait.", counts[QUEUED])
    yield _metric("vmae_det_queue_capacity", "gauge", "Jobs that may wait or be received.", table.capacity)
    yield _metric("vmae_det_job_seconds_total", "counter", "Seconds that jobs ran.", table.run_seconds)
    yield _metric(
        "vmae_det_video_seconds_total", "counter", "Seconds of video of jobs done.", table.video_seconds
    )
    yield _metric("vmae_det_received_bytes_total", "counter", "Bytes of videos.", table.received_bytes)
    yield _metric("vmae_det_results_bytes", "gauge", "Bytes of results on disk.", table.result_bytes())
    yield _metric("vmae_det_worker_up", "gauge", "1 if jobs are run.", int(worker.is_alive))
    yield _metric("vmae_det_model_up", "gauge", "1 if the model works.", int(worker.model.failure is None))
    yield _metric(
        "vmae_det_decoder_peak_memory_bytes",
        "gauge",
        "Peak resident memory of the largest process of a video.",
        worker.decoder_memory,
    )
    resident = _resident_memory()
    if resident is not None:
        yield _metric("process_resident_memory_bytes", "gauge", "Resident memory of the server.", resident)
    if peak := peak_memory():
        yield _metric("vmae_det_peak_memory_bytes", "gauge", "Peak resident memory of the server.", peak)
    yield _metric("process_cpu_seconds_total", "counter", "CPU time of the server.", cpu_seconds())
    yield _metric("process_start_time_seconds", "gauge", "Start of the server, Unix time.", _START)


def _metric(name: str, kind: str, text: str, values: float | Mapping[str, float]) -> str:
    rows = (
        [f'{name}{{state="{state}"}} {value:.15g}\n' for state, value in values.items()]
        if isinstance(values, Mapping)
        else [f"{name} {values:.15g}\n"]
    )
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n" + "".join(rows)


def _resident_memory() -> int | None:
    """Return the resident memory of this process in bytes; None if the system is not Linux."""
    with suppress(OSError, ValueError):
        if sys.platform == "linux":
            pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return None
