"""Writes the worst errors of a run as a page with playable clips, and as CSV.

The page is static and opened from disk. It loads nothing from other hosts, and shows names as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.data.catalog import DatasetSpec
from vmae_det.evaluation.diagnostics import explain_no_match, times_by_video
from vmae_det.evaluation.error_analysis import BACKGROUND_IOU, CAUSES, analyze_errors
from vmae_det.evaluation.evaluators import label_ranks
from vmae_det.evaluation.frame_map import FrameMAP
from vmae_det.evaluation.matching import match
from vmae_det.evaluation.worst_errors import (
    OUTRANKED,
    WRONG_CLASS,
    Box,
    ListedError,
    WorstErrors,
    worst_classes,
    worst_errors,
)
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv, read_excluded_keyframes
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import write_text
from vmae_det.video.discovery import resolve_video_ids
from vmae_det.visualization.report_files import fill_template, to_csv
from vmae_det.visualization.review_clips import Clip, Moment, write_clips

IOU = 0.5
PAGE, TABLE, CLIPS = "index.html", "review.csv", "clips"
_SPAN = 1.0  # seconds of a clip before and after its keyframe
_VIDEO_SPAN = 5.0  # seconds before and after the middle of a classified video
_MAX_ACTIONS = 5  # of a detected box, in the page
_COLUMNS = (
    *("kind", "class", "score", "video", "second", "person", "annotated", "detected", "iou"),
    *("annotated_x1", "annotated_y1", "annotated_x2", "annotated_y2", "x1", "y1", "x2", "y2", "clip"),
)

# Title and meaning of each kind.
_KINDS = {
    "background": (
        "False positives",
        f"Detected where nobody is annotated: an IoU below {BACKGROUND_IOU:g} with everybody. The highest "
        "scores first.",
    ),
    "not detected": (
        "Missed persons",
        "No box reaches the annotated person. Each action of the person counts. The largest persons first.",
    ),
    OUTRANKED: (
        "Missed actions",
        "The person is found, but an action that the person does not perform has a higher score than the "
        "annotated one. The greatest difference first. These are the wrong cells of the confusion matrix.",
    ),
    "not scored": (
        "Unscored actions",
        "The person is found, but no row has the annotated action. The largest persons first.",
    ),
    "confusion": (
        "Wrong actions",
        f"Detected on a person (an IoU of {BACKGROUND_IOU:g} or more) who performs other actions. The "
        "highest scores first.",
    ),
    "loose box": (
        "Badly located",
        f"Detected on a person who performs the action, with an IoU below {IOU:g}. The highest scores first.",
    ),
    "duplicate": (
        "Duplicates",
        "A further box of an action on a person whose box is already matched. The highest scores first.",
    ),
    WRONG_CLASS: (
        "Wrong classes",
        "Another class has a higher probability than the annotated one. The highest such probability first.",
    ),
}


@dataclass(frozen=True)
class Review:
    """The worst errors of a run.

    Attributes:
        worst: the errors.
        names: names of the classes.
        facts: names and values for the head of the page.
        videos: the file of each video of an error, by `ListedError.video`.
        moments: what the clip of each error shows.
        labels: file with the annotations.
        video_names: names to show, by `ListedError.video`; the default is that itself.
        points: lost points of mAP by kind.
    """

    worst: WorstErrors
    names: Sequence[str]
    facts: Sequence[tuple[str, str]]
    videos: Mapping[str | int, Path]
    moments: Sequence[Moment]
    labels: str
    video_names: Mapping[str | int, str] = field(default_factory=dict)
    points: Mapping[str, float] = field(default_factory=dict)


def review_detections(spec: DatasetSpec, path: Path, protocol: str, limit: int) -> Review:
    """Find the worst errors of detections.

    Args:
        spec: dataset of the detections.
        path: AVA CSV with scores.
        protocol: see `match`.
        limit: most errors of each kind and class.

    Raises:
        DataError: a file is invalid, a video is missing, or the detections are of another dataset.
    """
    label_map = LabelMap.from_file(spec.scored_classes or spec.label_map)
    truth = read_action_csv(spec.annotations, label_map, unknown_actions="ignore")
    detections = read_action_csv(path, kind="detections")
    rules = {
        "excluded": read_excluded_keyframes(spec.excluded) if spec.excluded else None,
        "protocol": protocol,
    }
    result = FrameMAP.from_matches(match(truth, detections, label_map, **rules), IOU)
    _check_same_dataset(spec, path, truth, detections, result)
    analysis = analyze_errors(truth, detections, label_map, iou=IOU, **rules)
    worst = worst_errors(analysis, limit)
    ids = np.array(sorted({error.video for error in worst.errors}), dtype=object)
    return Review(
        worst,
        label_map.names,
        [
            ("frame-mAP", f"{100 * result.mean_ap:.2f}"),
            ("protocol", protocol),
            ("IoU", f"{IOU:g}"),
            ("keyframes", str(result.num_keyframes)),
            ("annotated actions", str(int(result.num_ground_truth.sum()))),
            ("dataset", spec.name),
        ],
        dict(zip(ids.tolist(), resolve_video_ids(ids, spec.videos))),
        [Moment(error.second - spec.start_of(error.video), _SPAN) for error in worst.errors],
        str(spec.annotations),
        points={cause: 100 * float(cost) for cause, cost in zip(CAUSES, analysis.costs)},
    )


def _check_same_dataset(
    spec: DatasetSpec, path: Path, truth: ActionBoxes, detections: ActionBoxes, result: FrameMAP
) -> None:
    """Raise DataError if no detection can be of the dataset."""
    if not len(detections):
        return
    times = (times_by_video(rows.videos, rows.video, rows.timestamp) for rows in (truth, detections))
    problem = explain_no_match(*times) or (result.num_detections == 0 and result.problem)
    if problem:
        raise DataError(
            f"these are no detections of the dataset {spec.name}: {problem}; pass --dataset", path
        )


def review_classes(spec: DatasetSpec, path: Path, limit: int) -> Review:
    """Find the videos that a classifier is most certain of, and wrong.

    Args:
        spec: dataset of the scores.
        path: scores.npz of a run.
        limit: most videos of each class.

    Raises:
        DataError: a file is invalid, or the scores are of another dataset.
    """
    index, labels, scores = _read_scores(path)
    videos, own = spec.labeled_videos()
    names = _class_names(spec, path, own, index, labels, scores.shape[1])
    worst = worst_classes(scores, labels, limit)
    files = {error.video: Path(videos[int(index[error.video])]) for error in worst.errors}
    missing = [file for file in files.values() if isinstance(spec.videos, Path) and not file.exists()]
    if missing:
        raise DataError(
            f"no video file for {len(missing)} of {len(files)} videos, such as {missing[0]}", spec.name
        )
    root = spec.videos if isinstance(spec.videos, Path) else None
    return Review(
        worst,
        names,
        [
            ("top-1 accuracy", f"{100 * (label_ranks(scores, labels) <= 1).mean():.2f} %"),
            ("videos", str(len(labels))),
            ("dataset", spec.name),
        ],
        files,
        [Moment(None, _VIDEO_SPAN)] * len(worst.errors),
        str(spec.annotations or spec.videos),
        {
            video: str(file.relative_to(root) if root and file.is_relative_to(root) else file)
            for video, file in files.items()
        },
    )


def _read_scores(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the index, the label and the scores of each video."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index, labels, scores = (arrays[name] for name in ("index", "label", "scores"))
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"expected the scores that `vmae-det test` writes: {reason}", path) from None
    is_valid = (
        scores.ndim == 2
        and index.shape == labels.shape == scores.shape[:1]
        and len(labels) > 0
        and index.dtype.kind == labels.dtype.kind == "i"
        and scores.dtype.kind == "f"
        and np.isfinite(scores).all()
        and labels.min() >= 0
        and labels.max() < scores.shape[1]
        and index.min() >= 0
    )
    if not is_valid:
        raise DataError("expected index (V,), label (V,) and finite scores (V, C) of videos", path)
    return index, labels, scores


def _class_names(
    spec: DatasetSpec, path: Path, own: np.ndarray, index: np.ndarray, labels: np.ndarray, classes: int
) -> list[str]:
    """Return the names of the model's classes, whose order may differ from that of the dataset.

    Raises:
        DataError: the labels are not those of the dataset.
    """
    listed = LabelMap.from_file(spec.label_map).names if spec.label_map else ()
    pairs = set(zip(own[index].tolist(), labels.tolist())) if index.max() < len(own) else set()
    if not pairs or any(len({pair[side] for pair in pairs}) < len(pairs) for side in (0, 1)):
        raise DataError(
            f"these are no scores of the dataset {spec.name}: their labels differ; pass --dataset", path
        )
    if all(ours == theirs for ours, theirs in pairs):
        return [listed[c] if c < len(listed) else f"class {c}" for c in range(classes)]
    column = {theirs: ours for ours, theirs in pairs}
    return [
        listed[column[c]] if column.get(c, len(listed)) < len(listed) else f"class {c}"
        for c in range(classes)
    ]


# ---------------------------------------------------------------- files


def write_review(
    folder: Path, review: Review, title: str, annotate: Mapping[str, str] | None, workers: int | None = None
) -> list[Clip]:
    """Write index.html, review.csv and the folder clips.

    Args:
        folder: folder of the files.
        review: result of `review_detections` or `review_classes`.
        title: title of the page.
        annotate: "url" of `vmae-det annotate`, and the "command" that starts it; None for no link.
        workers: see `write_clips`.

    Returns:
        The clip of each error.

    Raises:
        DataError: no clip can be read.
        UserError: a file cannot be written.
    """
    moments: dict[Path, list[Moment]] = {}
    paths = [review.videos[error.video] for error in review.worst.errors]
    for path, moment in zip(paths, review.moments):
        moments.setdefault(path, []).append(moment)
    written = write_clips(moments, folder / CLIPS, workers)
    clips = [written[path, moment] for path, moment in zip(paths, review.moments)]
    if clips and all(clip.problem for clip in clips):
        raise DataError(f"none of the {len(clips)} clips can be read: {clips[0].problem}", paths[0])
    write_text(folder / TABLE, _table(review, clips))
    write_text(folder / PAGE, _page(review, clips, title, annotate))
    return clips


def _table(review: Review, clips: Sequence[Clip]) -> str:
    rows = []
    for error, clip in zip(review.worst.errors, clips):
        best = error.detected[0][0] if error.detected else None
        rows.append(
            [
                error.kind,
                review.names[error.column],
                "" if error.score is None else f"{error.score:.9g}",
                review.video_names.get(error.video, error.video),
                "" if error.second is None else f"{error.second:g}",
                "" if error.person < 0 else error.person,
                "; ".join(review.names[column] for column in error.annotated),
                "" if best is None else review.names[best],
                f"{error.iou:.4f}" if error.annotated_box and error.detected_box else "",
                *_coordinates(error.annotated_box),
                *_coordinates(error.detected_box),
                f"{CLIPS}/{clip.name}.mp4" if clip.name else "",
            ]
        )
    return to_csv([_COLUMNS, *rows])


def _coordinates(box: Box | None) -> list[str]:
    return [""] * 4 if box is None else [f"{value:.6g}" for value in box]


def _page(review: Review, clips: Sequence[Clip], title: str, annotate: Mapping[str, str] | None) -> str:
    kinds = list(review.worst.counts)
    data = {
        "title": title,
        "facts": list(review.facts),
        "iou": IOU,
        "classes": list(review.names),
        "kinds": [
            {
                "name": kind,
                "title": _KINDS[kind][0],
                "meaning": _KINDS[kind][1],
                "counts": review.worst.counts[kind].tolist(),
                "points": review.points.get(kind),
                "rivals": kind in (OUTRANKED, WRONG_CLASS),
            }
            for kind in kinds
        ],
        "annotate": annotate,
        "labels": review.labels,
        "errors": [
            _error_to_json(review, error, clip, kinds.index(error.kind))
            for error, clip in zip(review.worst.errors, clips)
        ],
    }
    script = (Path(__file__).parent / "review.js").read_text(encoding="utf-8")
    return fill_template(
        "review_page.html",
        DIGEST=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        SCRIPT=script,
        # Without "<", nothing in the data can end the script element.
        REVIEW=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )


def _error_to_json(review: Review, error: ListedError, clip: Clip, kind: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "column": error.column,
        "score": error.score,
        "video": review.video_names.get(error.video, error.video),
        "second": error.second,
        "person": error.person,
        "annotated": error.annotated,
        "annotatedBox": error.annotated_box,
        "detected": [
            pair
            for rank, pair in enumerate(error.detected)
            if rank < _MAX_ACTIONS or pair[0] in (error.column, *error.annotated)
        ],
        "detectedBox": error.detected_box,
        "iou": error.iou,
        "clip": {"name": clip.name, "at": clip.at, "problem": clip.problem},
    }
