"""Class checks: ids missing from the label map, classes without rows, and label maps that differ."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.report import MAX_EXAMPLES, Example, Finding, rows_finding
from vmae_det.formats.label_map import LabelMap


def unknown_action_findings(
    rows: pl.DataFrame, path: Path, known: list[int], label_map: Path
) -> list[Finding]:
    """Return the finding of rows whose `action` is not in `known`, the ids of the label map."""
    labeled = rows.filter(pl.col("action").is_not_null())
    bad = labeled.filter(~pl.col("action").is_in(known))
    if bad.is_empty():
        return []
    ids = sorted(bad["action"].unique())
    listed = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
    advice = f"ids {listed} are not in {label_map}: add them to it, or fix or remove the rows"
    if ids[0] == 0:
        advice += ". Ids start at 1; do these start at 0?"
    return rows_finding(
        "unknown_action", bad, path, f"of {len(labeled)} labels are not in the label map", advice
    )


def compare_label_maps(
    own: tuple[LabelMap, Path], other: tuple[LabelMap, Path], training: bool
) -> list[Finding]:
    """Return findings about classes that differ between two label maps. Models match classes by name.

    Args:
        own: label map of the dataset, and its file.
        other: label map of the other dataset, and its file.
        training: whether the dataset is the training set.
    """
    (trained, _), (tested, path) = (own, other) if training else (other, own)
    positions = {name: (column, trained.ids[column]) for column, name in enumerate(trained.names)}
    differ = {"class_not_trained": [], "class_ids_differ": []}
    for column, (name, number) in enumerate(zip(tested.names, tested.ids)):
        if name not in positions:
            differ["class_not_trained"].append(f"{number} {name}")
        elif positions[name] != (column, number):
            differ["class_ids_differ"].append(f"{number} {name}")
    advice = {
        "class_not_trained": "a model has no output for them: use the same names in both label maps",
        "class_ids_differ": "classes are matched by name; one label map for both sets is simpler",
    }
    what = {
        "class_not_trained": f"of {len(tested)} classes are not in the training set's label map",
        "class_ids_differ": f"of {len(tested)} classes have another id or position in the training set's "
        "label map",
    }
    return [
        Finding(
            kind,
            len(names),
            f"{len(names)} {what[kind]}",
            tuple(Example(str(path), None, name) for name in names[:MAX_EXAMPLES]),
            advice[kind],
        )
        for kind, names in differ.items()
        if names
    ]


def rows_by_class(rows: pl.DataFrame, label_map: LabelMap) -> dict[int, int]:
    """Return the number of rows of each id of the label map."""
    counts = dict(rows.group_by("action").len().iter_rows())
    return {number: counts.get(number, 0) for number in label_map.ids}


def unseen_class_findings(
    counts: dict[int, int], label_map: LabelMap, labels: Path | str, training: bool
) -> list[Finding]:
    """Return the finding of classes without rows: an error in a training set, else a warning."""
    names = dict(zip(label_map.ids, label_map.names))
    unseen = [number for number, count in counts.items() if not count]
    if not unseen:
        return []
    examples = tuple(Example(str(labels), None, f"{n} {names[n]}") for n in unseen[:MAX_EXAMPLES])
    what = f"{len(unseen)} of {len(counts)} classes have no rows"
    if training:
        advice = "add examples, or remove the classes from the label map: they cannot be learned"
        return [Finding("class_without_training_rows", len(unseen), what, examples, advice)]
    advice = "no fix needed: the mean over classes ignores them"
    return [Finding("class_without_rows", len(unseen), what, examples, advice)]
