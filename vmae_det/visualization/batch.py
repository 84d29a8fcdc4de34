"""Draws the clips of a training batch after augmentation, with their boxes, targets or masks."""

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
from vmae_det.modeling.boxes import clip_indices, jitter_boxes
from vmae_det.modeling.classification import mix_labels, mix_videos
from vmae_det.modeling.masking import draw_mask
from vmae_det.rendering.label_drawing import ActionLabel
from vmae_det.rendering.overlay import PersonOverlay, draw_people
from vmae_det.visualization.pictures import (
    Row,
    clip_frames,
    draw_blocks,
    draw_dashed_box,
    draw_rows,
    draw_text,
    stack,
)
from vmae_det.visualization.reconstruction import mask_tokens

# Frames per clip in the picture.
_COLUMNS = {"pretraining": 8, "contrastive": 8, "classification": 8, "detection": 4}
_MIN_SIDE = 320  # smallest side in pixels of a frame with boxes, so that names are legible
_CLIPS_PER_ROW = 4  # in the animation
_MIN_TARGET = 0.05  # smallest target of a class that is written in a caption
_NOTES = {
    "pretraining": "Gray: tokens that are hidden from the encoder.",
    "contrastive": "Two views of each video: clips at independent times.",
    "classification": "Numbers: targets of the loss, from 5 % on.",
    "detection": "Solid boxes and names: annotations of frame {keyframe}. Dashed: boxes after the jitter of "
    "training, from which features are pooled.",
}


@dataclass(frozen=True)
class CaptionedClip:
    """A clip in one or more rows of frames.

    Attributes:
        video: name of the video file.
        rows: captions and all T frames; the last row is animated.
    """

    video: str
    rows: tuple[Row, ...]


def draw_batch(cfg: CfgNode, step: int = 0, count: int = 8) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw the first clips of the batch of a training step, as the model receives them.

    Args:
        cfg: config of the training.
        step: training step, counted from 0.
        count: number of clips.

    Returns:
        A contact sheet and the frames of an animation, all uint8 RGB (H, W, 3).

    Raises:
        ConfigError: DATASETS.TRAIN is empty or has fewer clips than a batch.
        DataError: no video can be read.
    """
    task = model_class(cfg).task
    dataset = build_train_dataset(cfg, task)
    batch = load_batch_of_step(cfg, dataset, step, count)
    clips = _DRAW[task](cfg, dataset, batch)[:count]
    length = len(clips[0].rows[0][1])
    stride = max(length // _COLUMNS[task], 1)
    columns = range(length // 2 % stride, length, stride)  # includes the keyframe
    blocks = []
    for clip in clips:
        (caption, frames), *others = clip.rows
        rows = [(f"{clip.video}\n{caption}", frames), *others]
        blocks.append([(caption, frames[list(columns)]) for caption, frames in rows])
    note = _NOTES[task].format(keyframe=length // 2)
    sheet = draw_blocks(blocks, [f"frame {t}" for t in columns], note)
    return sheet, [_draw_animation_frame(clips, t, note) for t in range(length)]


def _draw_animation_frame(clips: Sequence[CaptionedClip], t: int, note: str) -> np.ndarray:
    """Draw frame t of all clips side by side."""
    pictures = []
    for first in range(0, len(clips), _CLIPS_PER_ROW):
        row = clips[first : first + _CLIPS_PER_ROW]
        cells = np.stack([clip.rows[-1][1][t] for clip in row])
        titles = [f"clip {first + number}" for number in range(1, len(row) + 1)]
        pictures.append(draw_rows([("", cells)], titles))
    return stack([*pictures, draw_text(note, pictures[0].shape[1])])


def _file_name(batch: Batch, number: int) -> str:
    return Path(batch["path"][number]).name


def _draw_pretraining(cfg: CfgNode, dataset: ConcatClipDataset, batch: Batch) -> list[CaptionedClip]:
    node = cfg.MODEL
    patch, tubelet = node.BACKBONE.PATCH_SIZE, node.BACKBONE.TUBELET_SIZE
    _, _, frames, height, width = batch["video"].shape
    grid = frames // tubelet, height // patch, width // patch
    masks = draw_mask(batch["seed"], grid, node.MASK.TYPE, node.MASK.RATIO).numpy()
    clips = []
    for number, (clip, mask) in enumerate(zip(batch["video"].numpy(), masks)):
        masked = mask_tokens(clip, mask, patch, tubelet)
        rows = [("clip", clip_frames(clip)), (f"{mask.mean():.0%} masked", clip_frames(masked))]
        clips.append(CaptionedClip(_file_name(batch, number), tuple(rows)))
    return clips


def _draw_contrastive(cfg: CfgNode, dataset: ConcatClipDataset, batch: Batch) -> list[CaptionedClip]:
    pairs = zip(batch["video"].numpy(), batch["video2"].numpy())
    return [
        CaptionedClip(
            _file_name(batch, number), (("view 1", clip_frames(first)), ("view 2", clip_frames(second)))
        )
        for number, (first, second) in enumerate(pairs)
    ]


def _draw_classification(cfg: CfgNode, dataset: ConcatClipDataset, batch: Batch) -> list[CaptionedClip]:
    video, size = batch["video"].float(), batch["video"].shape[-2:]
    classes, smoothing = cfg.MODEL.CLASSIFIER.NUM_CLASSES, cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING
    # Without mixup and cutmix, each clip is mixed with itself.
    count = len(video)
    no_mixing = {"partner": torch.arange(count), "box": torch.zeros(count, 4), "weight": torch.ones(count)}
    mixing = batch.get("mixing", no_mixing)
    targets = mix_labels(batch["label"], mixing, num_classes=classes, smoothing=smoothing, size=size)
    mixed = mix_videos(video, mixing).round().clamp(0, 255).to(torch.uint8).numpy()
    names = dict(enumerate(dataset.classes.label_map.names)) if dataset.classes else {}
    clips = []
    for number, (clip, target) in enumerate(zip(mixed, targets)):
        order = target.argsort(descending=True).tolist()
        lines = [
            f"{names.get(column, f'class {column}')} {target[column]:.2f}"
            for column in order
            if target[column] >= _MIN_TARGET
        ]
        rows = (("\n".join(lines), clip_frames(clip)),)
        clips.append(CaptionedClip(_file_name(batch, number), rows))
    return clips


def _draw_detection(cfg: CfgNode, dataset: ConcatClipDataset, batch: Batch) -> list[CaptionedClip]:
    height, width = batch["video"].shape[-2:]
    factor = max(1, math.ceil(_MIN_SIDE / max(height, width)))
    pooled_boxes = batch["boxes"]
    if cfg.MODEL.ROI_HEAD.BOX_JITTER:
        clips, counts = clip_indices(pooled_boxes), [len(boxes) for boxes in pooled_boxes]
        jittered = jitter_boxes(torch.cat(pooled_boxes), clips, batch["seed"], height, width)
        pooled_boxes = jittered.split(counts)
    label_map = dataset.datasets[0].label_map
    clips = []
    for number, clip in enumerate(batch["video"].numpy()):
        people = [
            PersonOverlay(factor * box, _action_labels(row, label_map), person)
            for person, (box, row) in enumerate(
                zip(batch["boxes"][number].numpy(), batch["labels"][number].numpy()), start=1
            )
        ]
        frames = clip_frames(clip)
        boxes = factor * pooled_boxes[number].numpy()
        drawn = [
            _draw_people(frame, people, boxes, factor, with_names=t == len(frames) // 2)
            for t, frame in enumerate(frames)
        ]
        lines = [
            f"{person}: {', '.join(label.name for label in overlay.actions) or 'no action'}"
            for person, overlay in enumerate(people, start=1)
        ]
        rows = (("\n".join(lines) or "no persons in the crop", np.stack(drawn)),)
        clips.append(CaptionedClip(_file_name(batch, number), rows))
    return clips


def _action_labels(row: np.ndarray, label_map: LabelMap) -> tuple[ActionLabel, ...]:
    return tuple(ActionLabel(label_map.names[c], None, label_map.kinds[c] or None) for c in row.nonzero()[0])


def _draw_people(
    frame: np.ndarray,
    people: Sequence[PersonOverlay],
    pooled_boxes: np.ndarray,
    factor: int,
    with_names: bool,
) -> np.ndarray:
    """Magnify a frame and draw its boxes. Names are only drawn on the keyframe."""
    height, width = frame.shape[:2]
    picture = cv2.resize(frame, (factor * width, factor * height), interpolation=cv2.INTER_CUBIC)
    for box in pooled_boxes:
        draw_dashed_box(picture, box)
    if with_names:
        return draw_people(picture, people)
    return draw_people(picture, [PersonOverlay(p.box, person_id=p.person_id) for p in people])


_DRAW = {
    "pretraining": _draw_pretraining,
    "contrastive": _draw_contrastive,
    "classification": _draw_classification,
    "detection": _draw_detection,
}
