"""Contents of the report files: HTML templates, which share a style sheet, and CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vmae_det.evaluation.confusion_matrix import ConfusionMatrix

_FOLDER = Path(__file__).parent


def fill_template(name: str, folder: Path = _FOLDER, **fields: str) -> str:
    """Return a template with its @@FIELD@@s replaced. STYLE is the style sheet that reports share."""
    fields["STYLE"] = (_FOLDER / "report.css").read_text(encoding="utf-8")
    # In one pass, because a value may contain the name of a field.
    pieces = (folder / name).read_text(encoding="utf-8").split("@@")
    return "".join(fields[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def to_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV text."""
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


def confusion_csv(matrix: ConfusionMatrix) -> str:
    """Return the counts of a confusion matrix as CSV text, with the names of rows and columns."""
    rows = ([name, *counts] for name, counts in zip(matrix.names, matrix.counts.tolist()))
    return to_csv([["annotated \\ predicted", *matrix.columns], *rows])
