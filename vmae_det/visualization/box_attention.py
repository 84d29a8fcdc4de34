"""Where the tokens of a person's box look, over the frames of a clip."""

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
from vmae_det.engine.setup import build_model_with_weights, choose_device
from vmae_det.engine.trainer import to_device
from vmae_det.modeling import ActionDetector
from vmae_det.modeling.attention_maps import attention_maps, box_query_weights
from vmae_det.modeling.backbone import VideoViT
from vmae_det.rendering.fonts import load_font
from vmae_det.rendering.overlay import OTHER_COLOUR, PersonOverlay, draw_people
from vmae_det.utils.errors import ConfigError, UserError
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import sample_keyframe_clip
from vmae_det.visualization.frame_rows import FONT_SIZE, GAP, INK, PAPER, draw_rows, draw_text, stack

_MOST_COLUMNS = 8
_SIDE = 288  # pixels of the longer side of a frame in the picture
_WHITE_OUT = 0.55  # of a frame's colour is taken away below its heat map
_OPACITY = (0.15, 0.75)  # of the heat map, at its lowest and highest value
_TOP_QUANTILE = 0.998  # of the values is the top of the scale: a single token would else take it all
_TOP_ACTIONS = 2
_BAR = (260, 14)


@dataclass(frozen=True)
class BoxAttention:
    """What the tokens of R boxes attend to in a clip.

    Args:
        frames: uint8 RGB (T, H, W, 3), as they are shown.
        seconds: of the frames (T,), from the keyframe, which is frame T // 2.
        boxes: xyxy in [0, 1] of the frame, (R, 4).
        maps: (R, t, h, w), attention to each token; sums to 1 over (t, h, w).
        area: height and width of a frame as a share of what `maps` cover, in (0, 1]: the rest is padding.
        names: of what was found for each box; may hold fewer, or none.
    """

    frames: np.ndarray
    seconds: np.ndarray
    boxes: np.ndarray
    maps: np.ndarray
    area: tuple[float, float]
    names: tuple[str, ...] = ()

    def slice_of(self, frame: int) -> int:
        """The time slice of tokens that a frame belongs to."""
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
    """Cut the clip around a moment of a video, and ask a model where the tokens in the boxes look.

    Args:
        cfg: of a model with a VideoViT; MODEL.WEIGHTS or MODEL.BACKBONE.CHECKPOINT names its weights.
        second: of the keyframe, from the beginning of the file.
        boxes: (R, 4), xyxy in [0, 1] of the frame.
        label_names: of a detector's classes, to say what it finds in the boxes.

    Raises:
        ConfigError: the backbone is of another kind.
        DataError: the video cannot be read, or ends before that moment.
        UserError: a box has no area inside of the frame.
    """
    where = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    for box in where:
        inside = np.clip(box, 0, 1)
        if not (inside[:2] < inside[2:]).all():
            raise UserError(
                f"--box {' '.join(f'{value:g}' for value in box)}: expected x1 y1 x2 y2 in [0, 1] of "
                "the frame, with x1 < x2 and y1 < y2"
            )
    device = choose_device(cfg)
    model = build_model_with_weights(cfg).to(device).eval()
    if not isinstance(model.backbone, VideoViT):
        raise ConfigError(
            f"MODEL.BACKBONE.NAME: attention is shown of VideoViT, got {cfg.MODEL.BACKBONE.NAME}"
        )
    reader, node = open_video(video, cfg.DATALOADER.READER), cfg.INPUT
    keyframe = reader.index_at(second)
    indices = sample_keyframe_clip(node, keyframe, len(reader))
    frames = reader.frames(indices)
    unpadded = transforms.make_clip(frames, where)
    unpadded = transforms.resize_short_side(unpadded, node.TEST_SHORT_SIDE, transforms.pixel_rounding(node))
    clip = transforms.full_frame_transform(unpadded, cfg)
    normalised = model.normalization(transforms.to_video(clip)[None].to(device))
    t, h, w = model.backbone.grid(normalised)
    slice_ = node.NUM_FRAMES // 2 // model.backbone.tubelet_size
    weights = torch.stack(
        [
            box_query_weights(box, (t, h, w), model.backbone.patch_size, slice_)
            for box in clip.boxes.to(device)
        ]
    )
    maps = attention_maps(model.backbone, normalised, weights, method)
    names: tuple[str, ...] = ()
    if isinstance(model, ActionDetector) and label_names:
        batch = {"video": transforms.to_video(clip)[None], "boxes": [clip.boxes]}
        batch["person_scores"] = [torch.ones(len(where))]
        scores = model(to_device(batch, device))["scores"][0]
        names = tuple(_top_actions(row, label_names) for row in scores.cpu())
    scale = _SIDE / max(frames.shape[1:3])
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    shown = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return BoxAttention(
        frames=np.stack(shown),
        seconds=reader.times[indices] - reader.times[keyframe],
        boxes=where,
        maps=maps.cpu().numpy().reshape(len(where), t, h, w),
        area=(unpadded.size[0] / clip.size[0], unpadded.size[1] / clip.size[1]),
        names=names,
    )


def draw_attention(found: BoxAttention) -> np.ndarray:
    """A row of frames with the boxes, then a row of heat maps for each box; uint8 RGB (H, W, 3).

    All heat maps of a box share one scale. In its corner a frame has the share of attention that its time
    slice gets; the keyframe's box is drawn in full, on other frames only where it was.
    """
    length = len(found.frames)
    step = -(-length // _MOST_COLUMNS)
    columns = range(length // 2 % step, length, step)  # the keyframe is one of them
    titles = ["keyframe" if t == length // 2 else f"{found.seconds[t]:+.2f} s" for t in columns]
    rows = [("clip", np.stack([_frame(found, t) for t in columns]))]
    for person in range(len(found.boxes)):
        caption = f"person {person + 1}\n{found.names[person]}" if found.names else f"person {person + 1}"
        rows.append((caption, np.stack([_heat(found, person, t) for t in columns])))
    picture = draw_rows(rows, titles)
    return stack([picture, _legend(found, picture.shape[1])], gap=0)


def animate_attention(found: BoxAttention) -> list[np.ndarray]:
    """The clip frame by frame: the picture with the boxes, and beside it the heat map of each."""
    pictures = []
    people = [f"person {number + 1}" for number in range(len(found.boxes))]
    for t in range(len(found.frames)):
        cells = [_frame(found, t), *(_heat(found, person, t) for person in range(len(found.boxes)))]
        picture = draw_rows([("", np.stack(cells))], [f"{found.seconds[t]:+.2f} s", *people])
        pictures.append(stack([picture, _legend(found, picture.shape[1])], gap=0))
    return pictures


def _top_actions(scores: torch.Tensor, names: Sequence[str]) -> str:
    best = scores.argsort(descending=True)[:_TOP_ACTIONS].tolist()
    return "\n".join(f"{names[column]} {scores[column]:.2f}" for column in best)


def _frame(found: BoxAttention, t: int) -> np.ndarray:
    size = np.tile(found.frames.shape[2:0:-1], 2)
    boxes = found.boxes * size
    if t == len(found.frames) // 2:
        people = [PersonOverlay(box, (), number) for number, box in enumerate(boxes, start=1)]
        return draw_people(found.frames[t], people)
    picture = found.frames[t].copy()
    for box in boxes:
        _outline(picture, box)
    return picture


def _heat(found: BoxAttention, person: int, t: int) -> np.ndarray:
    """A frame in grey below the attention of its time slice."""
    height, width = found.frames.shape[1:3]
    maps = found.maps[person]
    padded = (round(width / found.area[1]), round(height / found.area[0]))
    part = maps[found.slice_of(t)]
    level = cv2.resize(part / _top(maps), padded, interpolation=cv2.INTER_CUBIC)[:height, :width].clip(0, 1)
    colour = cv2.applyColorMap(np.rint(255 * level).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    grey = cv2.cvtColor(found.frames[t], cv2.COLOR_RGB2GRAY)[..., None] * _WHITE_OUT + 255 * 0.2
    opacity = _OPACITY[0] + (_OPACITY[1] - _OPACITY[0]) * level[..., None]
    picture = np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8)
    box = found.boxes[person] * np.tile((width, height), 2)
    if t == len(found.frames) // 2:
        picture = draw_people(picture, [PersonOverlay(box)])
    else:
        _outline(picture, box)
    return _write_share(picture, part.sum())


def _top(maps: np.ndarray) -> float:
    """The attention that the heat map's highest colour stands for."""
    return float(np.quantile(maps, _TOP_QUANTILE))


def _outline(picture: np.ndarray, box: np.ndarray) -> None:
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), OTHER_COLOUR, 1)


def _write_share(picture: np.ndarray, share: float) -> np.ndarray:
    image = Image.fromarray(picture)
    pen, font, text = ImageDraw.Draw(image), load_font(FONT_SIZE), f"{share:.0%}"
    box = (0, image.height - FONT_SIZE - GAP, round(font.getlength(text)) + 2 * GAP, image.height)
    pen.rectangle(box, fill=(18, 20, 24))
    pen.text((GAP, image.height - GAP), text, fill=(255, 255, 255), font=font, anchor="ls")
    return np.array(image)


def _legend(found: BoxAttention, width: int) -> np.ndarray:
    """The colours with what they stand for, as multiples of attention that is spread evenly."""
    font = load_font(FONT_SIZE)
    bar = cv2.applyColorMap(np.linspace(0, 255, _BAR[0])[None].astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    bar = np.repeat(bar[..., ::-1], _BAR[1], axis=0)
    tops = [f"{_top(maps) * maps.size:.1f}" for maps in found.maps]
    if len(tops) > 1:
        tops = [f"person {number}: {top}" for number, top in enumerate(tops, start=1)]
    strip = Image.new("RGB", (width, _BAR[1] + 3 * GAP), PAPER)
    strip.paste(Image.fromarray(np.ascontiguousarray(bar)), (3 * GAP + 10, GAP))
    pen = ImageDraw.Draw(strip)
    middle = GAP + _BAR[1] // 2
    pen.text((GAP, middle), "0", fill=INK, font=font, anchor="lm")
    pen.text((5 * GAP + 10 + _BAR[0], middle), "   ".join(tops), fill=INK, font=font, anchor="lm")
    text = (
        "Attention of the box's tokens at the keyframe, in multiples of attention spread evenly over the "
        "clip. In the corners: the share that goes to the frame's time slice."
    )
    return stack([np.array(strip), draw_text(text, width)], gap=0)
