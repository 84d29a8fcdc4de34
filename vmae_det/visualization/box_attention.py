"""Draws which tokens of a clip the tokens of a person box attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from vmae_det.config import CfgNode
from vmae_det.data import transforms
from vmae_det.engine.setup import setup_device
from vmae_det.engine.trainer import to_device
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.modeling import ActionDetector
from vmae_det.modeling.attention_maps import attention_maps, box_query_weights
from vmae_det.modeling.backbones.vit import VideoViT
from vmae_det.rendering.fonts import load_font
from vmae_det.rendering.overlay import PersonOverlay, draw_people
from vmae_det.rendering.style import BACKGROUND as LABEL_BACKGROUND
from vmae_det.rendering.style import OTHER_COLOR, WHITE
from vmae_det.utils.errors import ConfigError, UserError
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import sample_keyframe_clip
from vmae_det.visualization.pictures import BACKGROUND, FONT_SIZE, GAP, INK, draw_rows, draw_text, stack

_MAX_COLUMNS = 8
_SIDE = 288  # length of the longer side of a frame in pixels
_FADE = (0.55, 51)  # factor and offset of the gray frame below a heat map
_OPACITY = (0.15, 0.75)  # of the heat map, at its lowest and highest value
# Quantile of the values at the top of the color scale. With the maximum, one token could use the whole scale.
_TOP_QUANTILE = 0.998
_TOP_ACTIONS = 2
_COLOR_BAR_SIZE = (260, 14)


@dataclass(frozen=True)
class BoxAttention:
    """Attention of the tokens of R boxes to the tokens of a clip.

    Attributes:
        frames: uint8 RGB (T, H, W, 3), in the size in which they are drawn.
        seconds: times of the frames (T,), relative to the keyframe, which is frame T // 2.
        boxes: xyxy in [0, 1] of the frame, (R, 4).
        maps: attention to each token, (R, t, h, w); sums to 1 over (t, h, w).
        area: height and width of a frame divided by those of `maps`, in (0, 1]; the rest is padding.
        names: captions with the detected actions of each box; empty if unknown.
    """

    frames: np.ndarray
    seconds: np.ndarray
    boxes: np.ndarray
    maps: np.ndarray
    area: tuple[float, float]
    names: tuple[str, ...] = ()

    def slice_of(self, frame: int) -> int:
        """Return the index of the time slice of tokens that contains a frame."""
        return frame * self.maps.shape[1] // len(self.frames)


@torch.no_grad()
def attend_boxes(
    cfg: CfgNode,
    video: str | Path,
    second: float,
    boxes: Sequence[Sequence[float]],
    method: str = "rollout",
    label_names: Sequence[str] = (),
) -> BoxAttention:
    """Compute the attention of the tokens in some boxes, for the clip around a keyframe.

    Args:
        cfg: config of a model with a VideoViT; MODEL.WEIGHTS or MODEL.BACKBONE.CHECKPOINT names its weights.
        video: video file.
        second: time of the keyframe, from the start of the file.
        boxes: (R, 4), xyxy in [0, 1] of the frame.
        method: as in `attention_maps`.
        label_names: class names of a detector. If given, the top actions of each box are added.

    Raises:
        ConfigError: the backbone is not a VideoViT.
        DataError: the video cannot be read, or ends before the keyframe.
        UserError: a box has no area inside of the frame.
    """
    box_array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    for box in box_array:
        clipped = np.clip(box, 0, 1)
        if not (clipped[:2] < clipped[2:]).all():
            raise UserError(
                f"--box: got {' '.join(f'{value:g}' for value in box)}, expected x1 y1 x2 y2 in [0, 1] of "
                "the frame, with x1 < x2 and y1 < y2"
            )
    device = setup_device(cfg)
    model = build_model_with_weights(cfg).to(device).eval()
    if not isinstance(model.backbone, VideoViT):
        raise ConfigError(
            f"MODEL.BACKBONE.NAME: attention maps require VideoViT, got {cfg.MODEL.BACKBONE.NAME}"
        )
    reader, node = open_video(video, cfg.DATALOADER.READER), cfg.INPUT
    keyframe = reader.index_at(second)
    indices = sample_keyframe_clip(node, keyframe, len(reader))
    frames = reader.frames(indices)
    unpadded = transforms.make_clip(frames, box_array)
    unpadded = transforms.resize_short_side(unpadded, node.TEST_SHORT_SIDE, transforms.pixel_rounding(node))
    clip = transforms.full_frame_transform(unpadded, cfg)
    normalized = model.normalization(transforms.to_video(clip)[None].to(device))
    t, h, w = model.backbone.grid(normalized)
    key_slice = node.NUM_FRAMES // 2 // model.backbone.tubelet_size
    weights = torch.stack(
        [
            box_query_weights(box, (t, h, w), model.backbone.patch_size, key_slice)
            for box in clip.boxes.to(device)
        ]
    )
    maps = attention_maps(model.backbone, normalized, weights, method)
    names: tuple[str, ...] = ()
    if isinstance(model, ActionDetector) and label_names:
        batch = {"video": transforms.to_video(clip)[None], "boxes": [clip.boxes]}
        batch["person_scores"] = [torch.ones(len(box_array))]
        scores = model(to_device(batch, device))["scores"][0]
        names = tuple(_top_actions(row, label_names) for row in scores.cpu())
    scale = _SIDE / max(frames.shape[1:3])
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    resized = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return BoxAttention(
        frames=np.stack(resized),
        seconds=reader.times[indices] - reader.times[keyframe],
        boxes=box_array,
        maps=maps.cpu().numpy().reshape(len(box_array), t, h, w),
        area=(unpadded.size[0] / clip.size[0], unpadded.size[1] / clip.size[1]),
        names=names,
    )


def draw_attention(attention: BoxAttention) -> np.ndarray:
    """Draw a row of frames with the boxes, and a row of heat maps per box.

    All heat maps of a box have the same color scale. The number in the corner of a frame is the share of
    attention to its time slice. The box is emphasized on the keyframe; other frames show the box of the
    keyframe as an outline.

    Returns:
        uint8 RGB (H, W, 3).
    """
    length = len(attention.frames)
    step = -(-length // _MAX_COLUMNS)
    columns = range(length // 2 % step, length, step)  # includes the keyframe
    titles = ["keyframe" if t == length // 2 else f"{attention.seconds[t]:+.2f} s" for t in columns]
    rows = [("clip", np.stack([_draw_frame(attention, t) for t in columns]))]
    for person in range(len(attention.boxes)):
        caption = f"person {person + 1}"
        if attention.names:
            caption += f"\n{attention.names[person]}"
        rows.append((caption, np.stack([_draw_heat_map(attention, person, t) for t in columns])))
    picture = draw_rows(rows, titles)
    return stack([picture, _draw_legend(attention, picture.shape[1])], gap=0)


def animate_attention(attention: BoxAttention) -> list[np.ndarray]:
    """Draw a picture per frame: the frame with the boxes, and next to it the heat map of each box."""
    pictures = []
    people = [f"person {person + 1}" for person in range(len(attention.boxes))]
    for t in range(len(attention.frames)):
        cells = [_draw_frame(attention, t)]
        cells += [_draw_heat_map(attention, person, t) for person in range(len(people))]
        picture = draw_rows([("", np.stack(cells))], [f"{attention.seconds[t]:+.2f} s", *people])
        pictures.append(stack([picture, _draw_legend(attention, picture.shape[1])], gap=0))
    return pictures


def _top_actions(scores: torch.Tensor, names: Sequence[str]) -> str:
    best = scores.argsort(descending=True)[:_TOP_ACTIONS].tolist()
    return "\n".join(f"{names[column]} {scores[column]:.2f}" for column in best)


def _draw_frame(attention: BoxAttention, t: int) -> np.ndarray:
    size = np.tile(attention.frames.shape[2:0:-1], 2)
    boxes = attention.boxes * size
    if t == len(attention.frames) // 2:
        people = [PersonOverlay(box, (), number) for number, box in enumerate(boxes, start=1)]
        return draw_people(attention.frames[t], people)
    picture = attention.frames[t].copy()
    for box in boxes:
        _draw_outline(picture, box)
    return picture


def _draw_heat_map(attention: BoxAttention, person: int, t: int) -> np.ndarray:
    """Draw the attention to the time slice of a frame over the frame in gray."""
    height, width = attention.frames.shape[1:3]
    maps = attention.maps[person]
    padded = (round(width / attention.area[1]), round(height / attention.area[0]))
    time_slice = maps[attention.slice_of(t)]
    level = cv2.resize(time_slice / _scale_top(maps), padded, interpolation=cv2.INTER_CUBIC)
    level = level[:height, :width].clip(0, 1)
    color = cv2.applyColorMap(np.rint(255 * level).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    gray = cv2.cvtColor(attention.frames[t], cv2.COLOR_RGB2GRAY)[..., None] * _FADE[0] + _FADE[1]
    opacity = _OPACITY[0] + (_OPACITY[1] - _OPACITY[0]) * level[..., None]
    picture = np.rint(gray * (1 - opacity) + color * opacity).astype(np.uint8)
    box = attention.boxes[person] * np.tile((width, height), 2)
    if t == len(attention.frames) // 2:
        picture = draw_people(picture, [PersonOverlay(box)])
    else:
        _draw_outline(picture, box)
    return _write_percentage(picture, time_slice.sum())


def _scale_top(maps: np.ndarray) -> float:
    """Return the attention at the top of the color scale."""
    return float(np.quantile(maps, _TOP_QUANTILE))


def _draw_outline(picture: np.ndarray, box: np.ndarray) -> None:
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), OTHER_COLOR, 1)


def _write_percentage(picture: np.ndarray, share: float) -> np.ndarray:
    """Write a share as a percentage in the bottom left corner."""
    image = Image.fromarray(picture)
    pen, font, text = ImageDraw.Draw(image), load_font(FONT_SIZE), f"{share:.0%}"
    box = (0, image.height - FONT_SIZE - GAP, round(font.getlength(text)) + 2 * GAP, image.height)
    pen.rectangle(box, fill=LABEL_BACKGROUND)
    pen.text((GAP, image.height - GAP), text, fill=WHITE, font=font, anchor="ls")
    return np.array(image)


def _draw_legend(attention: BoxAttention, width: int) -> np.ndarray:
    """Draw the color bar, labeled with multiples of uniform attention, and an explanation."""
    font = load_font(FONT_SIZE)
    bar_width, bar_height = _COLOR_BAR_SIZE
    bar = cv2.applyColorMap(np.linspace(0, 255, bar_width)[None].astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    bar = np.repeat(bar[..., ::-1], bar_height, axis=0)
    tops = [f"{_scale_top(maps) * maps.size:.1f}" for maps in attention.maps]
    if len(tops) > 1:
        tops = [f"person {number}: {top}" for number, top in enumerate(tops, start=1)]
    strip = Image.new("RGB", (width, bar_height + 3 * GAP), BACKGROUND)
    strip.paste(Image.fromarray(np.ascontiguousarray(bar)), (3 * GAP + 10, GAP))
    pen = ImageDraw.Draw(strip)
    middle = GAP + bar_height // 2
    pen.text((GAP, middle), "0", fill=INK, font=font, anchor="lm")
    pen.text((5 * GAP + 10 + bar_width, middle), "   ".join(tops), fill=INK, font=font, anchor="lm")
    text = (
        "Attention of the tokens in the box at the keyframe, as a multiple of uniform attention over the "
        "clip. In the corners: the share of attention to the time slice of the frame."
    )
    return stack([np.array(strip), draw_text(text, width)], gap=0)
