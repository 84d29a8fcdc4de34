"""Classes: ids that the label map lacks, and classes that a set never shows."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.data.check.findings import MAX_EXAMPLES, Example, Finding, finding_of_rows
from vmae_det.data.label_map import LabelMap


def unknown_action_findings(
    rows: pl.DataFrame, path: Path, known: list[int], label_map: Path
) -> list[Finding]:
    """Rows whose `action` is none of `known`, the ids of the label map."""
    labelled = rows.filter(pl.col("action").is_not_null())
    bad = labelled.filter(~pl.col("action").is_in(known))
    if bad.is_empty():
        return []
    ids = sorted(bad["action"].unique())
    named = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
    advice = f"the ids {named} are not in {label_map}: add them there, or mend or remove the rows"
    if ids[0] == 0:
        advice += ". Ids start at 1; do these count from 0?"
    return finding_of_rows(
        "unknown_action", bad, path, f"of {len(labelled)} labels are not in the label map", advice
    )


def rows_by_class(rows: pl.DataFrame, label_map: LabelMap) -> dict[int, int]:
    """Number of rows of each id of the label map."""
    counts = dict(rows.group_by("action").len().iter_rows())
    return {number: counts.get(number, 0) for number in label_map.ids}


def unseen_class_findings(
    counts: dict[int, int], label_map: LabelMap, labels: Path | str, training: bool
) -> list[Finding]:
    """The classes without rows: an error in a training set, a warning in another."""
    names = dict(zip(label_map.ids, label_map.names))
    unseen = [number for number, count in counts.items() if not count]
    if not unseen:
        return []
    examples = tuple(Example(str(labels), None, f"{n} {names[n]}") for n in unseen[:MAX_EXAMPLES])
    what = f"{len(unseen)} of {len(counts)} classes have no row"
    if training:
        advice = "add examples, or take the classes out of the label map: they can not be learned"
        return [Finding("class_without_training_rows", len(unseen), what, examples, advice)]
    advice = "nothing to mend: the mean over classes is taken without them"
    return [Finding("class_without_rows", len(unseen), what, examples, advice)]
