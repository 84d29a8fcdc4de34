"""What a model is fed: clips of a training batch after their augmentation, with boxes, labels or masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data.loader import Batch, ConcatClipDataset, build_train_dataset, load_batch_of_step
from vmae_det.formats.label_map import LabelMap
from vmae_det.modeling import model_class
from vmae_det.modeling.boxes import jitter_boxes
from vmae_det.modeling.classification import mix_labels, mix_videos
from vmae_det.modeling.masking import draw_mask
from vmae_det.rendering.overlay import ActionLabel, PersonOverlay, draw_people
from vmae_det.visualization.contact_sheet import draw_dashed
from vmae_det.visualization.frame_rows import Row, draw_blocks, draw_rows, draw_text, frames_of, stack
from vmae_det.visualization.reconstruction import mask_cubes

_COLUMNS = {"pretraining": 8, "classification": 8, "detection": 4}  # frames of a clip in the picture
_CELL = 320  # pixels that the side of a clip with boxes is drawn at, at least: names must be legible
_ACROSS = 4  # clips side by side in the animation
_LEAST_SHARE = 0.05  # of a class in a mixed target that is written
_NOTES = {
    "pretraining": "Grey: cubes that the encoder does not see.",
    "classification": "Numbers: the targets that the loss is taken with, from 5 % on.",
    "detection": "Solid boxes and names: annotations, of frame {keyframe}. Dashed: boxes as training jitters "
    "them, whose features are pooled.",
}


@dataclass(frozen=True)
class DrawnClip:
    """A clip with what is written beside it and rows of frames.

    Args:
        video: the name of its file.
        rows: of all T frames; the last is what is animated.
    """

    video: str
    rows: tuple[Row, ...]


def draw_batch(cfg: CfgNode, step: int = 0, count: int = 8) -> tuple[np.ndarray, list[np.ndarray]]:
    """The first clips of the batch of a training step, as the model takes them.

    Args:
        step: counted from 0.
        count: of clips.

    Returns:
        A contact sheet and the frames of an animation, uint8 RGB (H, W, 3) each.

    Raises:
        ConfigError: DATASETS.TRAIN names nothing, or less than a batch.
        DataError: no video can be read.
    """
    task = model_class(cfg).task
    dataset = build_train_dataset(cfg, task)
    batch = load_batch_of_step(cfg, dataset, step, count)
    clips = _DRAW[task](cfg, dataset, batch)[:count]
    length = len(clips[0].rows[0][1])
    stride = max(length // _COLUMNS[task], 1)
    columns = range(length // 2 % stride, length, stride)  # a keyframe is one of them
    blocks = []
    for clip in clips:
        (caption, frames), *others = clip.rows
        rows = [(f"{clip.video}\n{caption}", frames), *others]
        blocks.append([(caption, frames[list(columns)]) for caption, frames in rows])
    note = _NOTES[task].format(keyframe=length // 2)
    sheet = draw_blocks(blocks, [f"frame {t}" for t in columns], note)
    return sheet, [_animated(clips, t, note) for t in range(length)]


def _animated(clips: Sequence[DrawnClip], t: int, note: str) -> np.ndarray:
    """Frame t of all clips side by side."""
    pictures = []
    for first in range(0, len(clips), _ACROSS):
        some = clips[first : first + _ACROSS]
        cells = np.stack([clip.rows[-1][1][t] for clip in some])
        titles = [f"clip {first + number}" for number in range(1, len(some) + 1)]
        pictures.append(draw_rows([("", cells)], titles))
    return stack([*pictures, draw_text(note, pictures[0].shape[1])])


def _file_of(batch: Batch, number: int) -> str:
    return Path(batch["path"][number]).name


def _draw_pretraining(cfg: CfgNode, dataset: ConcatClipDataset, batch: Batch) -> list[DrawnClip]:
    node = cfg.MODEL
    patch, tubelet = node.BACKBONE.PATCH_SIZE, node.BACKBONE.TUBELET_SIZE
    _, _, frames, height, width = batch["video"].shape
    grid = frames // tubelet, height // patch, width // patch
    masks = draw_mask(batch["seed"], grid, node.MASK.TYPE, node.MASK.RATIO).numpy()
    clips = []
    for number, (clip, mask) in enumerate(zip(batch["video"].numpy(), masks)):
        seen = mask_cubes(clip, mask, patch, tubelet)
        rows = [("clip", frames_of(clip)), (f"{mask.mean():.0%} masked", frames_of(seen))]
        clips.append(DrawnClip(_file_of(batch, number), tuple(rows)))
    return clips


def _draw_classification(cfg: CfgNode, dataset: ConcatClipDataset, batch: Batch) -> list[DrawnClip]:
    video, size = batch["video"].float(), batch["video"].shape[-2:]
    classes, smoothing = cfg.MODEL.CLASSIFIER.NUM_CLASSES, cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING
    # Without mixing, a clip is its own partner.
    count = len(video)
    alone = {"partner": torch.arange(count), "box": torch.zeros(count, 4), "weight": torch.ones(count)}
    mixing = batch.get("mixing", alone)
    targets = mix_labels(batch["label"], mixing, num_classes=classes, smoothing=smoothing, size=size)
    mixed = mix_videos(video, mixing).round().clamp(0, 255).to(torch.uint8).numpy()
    names = _class_names(dataset)
    clips = []
    for number, (clip, target) in enumerate(zip(mixed, targets)):
        order = target.argsort(descending=True).tolist()
        lines = [
            f"{names.get(column, f'class {column}')} {target[column]:.2f}"
            for column in order
            if target[column] >= _LEAST_SHARE
        ]
        rows = (("\n".join(lines), frames_of(clip)),)
        clips.append(DrawnClip(_file_of(batch, number), rows))
    return clips


def _class_names(dataset: ConcatClipDataset) -> dict[int, str]:
    """Names by label, where they are known."""
    return dict(enumerate(dataset.classes.label_map.names)) if dataset.classes else {}


def _draw_detection(cfg: CfgNode, dataset: ConcatClipDataset, batch: Batch) -> list[DrawnClip]:
    height, width = batch["video"].shape[-2:]
    factor = max(1, math.ceil(_CELL / max(height, width)))
    used = batch["boxes"]
    if cfg.MODEL.ROI_HEAD.BOX_JITTER:
        used = jitter_boxes(used, batch["seed"], height, width)
    label_map = dataset.datasets[0].label_map
    clips = []
    for number, clip in enumerate(batch["video"].numpy()):
        people = [
            PersonOverlay(factor * box, _labels(row, label_map), person)
            for person, (box, row) in enumerate(
                zip(batch["boxes"][number].numpy(), batch["labels"][number].numpy()), start=1
            )
        ]
        frames = frames_of(clip)
        drawn = [
            _draw_people(frame, people, factor * used[number].numpy(), factor, named=t == len(frames) // 2)
            for t, frame in enumerate(frames)
        ]
        lines = [
            f"{person}: {', '.join(label.name for label in overlay.actions)}"
            for person, overlay in enumerate(people, start=1)
        ]
        rows = (("\n".join(lines) or "no person is left in the crop", np.stack(drawn)),)
        clips.append(DrawnClip(_file_of(batch, number), rows))
    return clips


def _labels(row: np.ndarray, label_map: LabelMap) -> tuple[ActionLabel, ...]:
    return tuple(ActionLabel(label_map.names[c], None, label_map.kinds[c] or None) for c in row.nonzero()[0])


def _draw_people(
    frame: np.ndarray, people: Sequence[PersonOverlay], used: np.ndarray, factor: int, named: bool
) -> np.ndarray:
    """A frame made larger, with its boxes; names at the keyframe alone."""
    height, width = frame.shape[:2]
    picture = cv2.resize(frame, (factor * width, factor * height), interpolation=cv2.INTER_CUBIC)
    for box in used:
        draw_dashed(picture, box)
    if named:
        return draw_people(picture, people)
    return draw_people(picture, [PersonOverlay(p.box, person_id=p.person_id) for p in people])


_DRAW = {
    "pretraining": _draw_pretraining,
    "classification": _draw_classification,
    "detection": _draw_detection,
}
