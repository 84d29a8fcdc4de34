"""Classes: ids that the label map lacks, and classes that a set never shows."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vmae_det.dataset_tools.check.findings import MAX_EXAMPLES, Example, Finding, finding_of_rows
from vmae_det.formats.label_map import LabelMap


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


def class_findings(own: tuple[LabelMap, Path], other: tuple[LabelMap, Path], training: bool) -> list[Finding]:
    """What differs between the label maps (with their files) of two sets, of which `own` is for training or
    not."""
    (trained, _), (tested, path) = (own, other) if training else (other, own)
    places = {name: (column, trained.ids[column]) for column, name in enumerate(trained.names)}
    differ = {"class_not_trained": [], "class_ids_differ": []}
    for column, (name, number) in enumerate(zip(tested.names, tested.ids)):
        if name not in places:
            differ["class_not_trained"].append(f"{number} {name}")
        elif places[name] != (column, number):
            differ["class_ids_differ"].append(f"{number} {name}")
    advice = {
        "class_not_trained": "a model has no output for them: use the same names in both label maps",
        "class_ids_differ": "classes are matched by name; the same label map for both sets is simpler",
    }
    what = {
        "class_not_trained": f"of {len(tested)} classes are not in the training set's label map",
        "class_ids_differ": f"of {len(tested)} classes have another id or place in the training set's",
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
