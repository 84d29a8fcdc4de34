"""Writers of the classes of a video: table, CSV and JSON lines, of the whole video or over time.

The writers of results over time are the formats of `vmae-det classify --every`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
from tqdm import tqdm

from vmae_det.formats.class_csv import COLUMNS
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.classifier import VideoClasses
from vmae_det.inference.detections import KeyframeActions
from vmae_det.rendering.result_writers import OverlayResultWriter, PageResultWriter, ResultWriter, TextWriter
from vmae_det.utils.output_files import write_text

TIMED_COLUMNS = ("video", "time", "rank", "id", "class", "score")


def classes_by_score(scores: np.ndarray, label_map: LabelMap) -> list[dict[str, Any]]:
    """Return id, name and score of all classes, best first. Scores (classes,) keep nine digits."""
    return [
        {"id": label_map.ids[c], "name": label_map.names[c], "score": float(f"{scores[c]:.9g}")}
        for c in np.argsort(-scores, kind="stable")
    ]


def _csv_rows(key: tuple[Any, ...], scores: np.ndarray, label_map: LabelMap) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for rank, row in enumerate(classes_by_score(scores, label_map), start=1):
        writer.writerow((*key, rank, row["id"], row["name"], f"{row['score']:.9g}"))
    return stream.getvalue()


def _json_line(key: dict[str, Any], scores: np.ndarray, label_map: LabelMap) -> str:
    return simplejson.dumps(key | {"classes": classes_by_score(scores, label_map)}) + "\n"


# ---------------------------------------------------------------- whole videos


def class_file(stem: Path, form: str) -> Path:
    """Return the file with the classes of a whole video, in the format "csv" or "jsonl"."""
    return stem.with_name(f"{stem.name}_classes.{form}")


def write_classes(result: VideoClasses, video_id: str, path: Path) -> None:
    """Write the classes of a whole video, in the format of the suffix of `path`."""
    if path.suffix == ".csv":
        text = ",".join(COLUMNS) + "\n" + _csv_rows((video_id,), result.scores, result.label_map)
    else:
        text = _json_line({"video": video_id}, result.scores, result.label_map)
    write_text(path, text)


def class_table(result: VideoClasses, video_id: str, top_k: int) -> str:
    """Return the best classes of a whole video as lines of text."""
    lines = [printable(video_id), "  rank   score  class"]
    for rank, (name, score) in enumerate(result.top(top_k), start=1):
        lines.append(f"  {rank:4d}  {score:6.4f}  {printable(name)}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Replace the characters that a terminal would not print."""
    return "".join(c if c.isprintable() else "?" for c in text)


# ---------------------------------------------------------------- classes over time


class ClassPrinter:
    """Prints a line with the best classes at each time.

    Args:
        name: start of each line.
        top_k: number of classes.
    """

    def __init__(self, name: str, label_map: LabelMap, top_k: int) -> None:
        self._name, self._label_map, self._top_k = printable(name), label_map, top_k

    def write(self, keyframe: KeyframeActions) -> None:
        """Print the line of the next result."""
        scores, names = keyframe.scores[0], self._label_map.names
        best = np.argsort(-scores, kind="stable")[: self._top_k]
        classes = ", ".join(f"{printable(names[column])} {scores[column]:.2f}" for column in best)
        tqdm.write(f"{self._name}{keyframe.time:9.2f} s  {classes}")


class TimelineCsvWriter(TextWriter):
    """CSV with a header, and a row per time and class, best first."""

    suffix = ".csv"

    def __enter__(self) -> TimelineCsvWriter:
        super().__enter__()
        self._file.write(",".join(TIMED_COLUMNS) + "\n")
        return self

    def _format(self, keyframe: KeyframeActions) -> str:
        key = self._output.video_id, f"{round(keyframe.time, 6):.12g}"
        return _csv_rows(key, keyframe.scores[0], self._output.label_map)


class TimelineJsonLinesWriter(TextWriter):
    """JSON lines with an object per time."""

    suffix = ".jsonl"

    def _format(self, keyframe: KeyframeActions) -> str:
        key = {"video": self._output.video_id, "time": round(keyframe.time, 6)}
        return _json_line(key, keyframe.scores[0], self._output.label_map)


class ClassOverlayWriter(OverlayResultWriter):
    """The video with its best classes drawn in a corner, and a timeline below."""

    suffix = ".mp4"


# Formats by their name in --format, as `result_writers.WRITERS`.
TIMELINE_WRITERS: dict[str, type[ResultWriter]] = {
    "html": PageResultWriter,
    "csv": TimelineCsvWriter,
    "jsonl": TimelineJsonLinesWriter,
    "overlay": ClassOverlayWriter,
}


def timeline_stem(stem: Path) -> Path:
    """Return the stem of the files with the classes of a video over time."""
    return stem.with_name(f"{stem.name}_timeline")
