"""Transforms of a whole clip and its boxes together.

A clip is uint8 (T, 3, H, W), laid out in memory as the decoder gives it (channels last), which is what the
resize of PyTorch is fastest on. Boxes are float32 (N, 4) xyxy pixels of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate

from vmae_det.config import CfgNode
from vmae_det.data import color as colours


@dataclass
class Clip:
    """Frames uint8 (T, 3, H, W) with boxes float32 (N, 4), xyxy in pixels."""

    frames: torch.Tensor
    boxes: torch.Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return tuple(self.frames.shape[-2:])

    def pixels(self) -> np.ndarray:
        """The frames as OpenCV takes them, uint8 (T, H, W, 3), contiguous."""
        return np.ascontiguousarray(self.frames.permute(0, 2, 3, 1).numpy())


def make_clip(frames: np.ndarray, relative_boxes: np.ndarray | None = None) -> Clip:
    """A clip of decoded frames (T, H, W, 3), with boxes (N, 4) given in [0, 1] of the frame."""
    boxes = np.zeros((0, 4)) if relative_boxes is None else relative_boxes
    height, width = frames.shape[1:3]
    pixels = torch.as_tensor(boxes * [width, height, width, height], dtype=torch.float32)
    return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), pixels)


def resize(clip: Clip, height: int, width: int) -> Clip:
    """Resize to a size, bilinear with antialiasing."""
    if clip.size == (height, width):
        return clip
    x, y = width / clip.size[1], height / clip.size[0]
    frames = interpolate(clip.frames, (height, width), mode="bilinear", antialias=True)
    return Clip(frames, clip.boxes * torch.tensor([x, y, x, y]) if len(clip.boxes) else clip.boxes)


Rounding = Callable[[float], int]


def pixel_rounding(node: CfgNode) -> Rounding:
    """How sizes and places in pixels become whole numbers under INPUT.CONVENTION."""
    return int if node.CONVENTION == "published" else round


def resize_short_side(clip: Clip, short_side: int, to_whole: Rounding = round) -> Clip:
    """Resize so that the shorter side has this many pixels; the aspect ratio stays, to rounding."""
    return resize(clip, *resized_size(*clip.size, short_side, to_whole))


def resized_size(height: int, width: int, short_side: int, to_whole: Rounding = round) -> tuple[int, int]:
    """Height and width with the shorter side at `short_side`, the aspect kept."""
    shortest = min(height, width)
    return tuple(max(to_whole(short_side * side / shortest), short_side) for side in (height, width))


def crop(clip: Clip, top: int, left: int, height: int, width: int) -> Clip:
    """Cut a rectangle; boxes move along and are cut at its borders (outside it they become empty)."""
    boxes = clip.boxes
    if len(boxes):
        start = torch.tensor([left, top, left, top], dtype=torch.float32)
        limit = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = (boxes - start).clamp(min=0).minimum(limit)
    return Clip(clip.frames[..., top : top + height, left : left + width], boxes)


def flip(clip: Clip) -> Clip:
    """Mirror left and right."""
    x1, y1, x2, y2 = clip.boxes.unbind(1)
    width = clip.size[1]
    return Clip(clip.frames.flip(-1), torch.stack([width - x2, y1, width - x1, y2], dim=1))


def pad_to_multiple(clip: Clip, multiple: int, colour: tuple[float, float, float]) -> Clip:
    """Extend bottom and right with a colour (0..255) until both sides are divisible by `multiple`."""
    height, width = clip.size
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return clip
    fill = torch.tensor([round(value) for value in colour], dtype=torch.uint8).view(3, 1, 1)
    frames = fill.expand(len(clip.frames), 3, height + bottom, width + right).clone()
    frames[..., :height, :width] = clip.frames
    return Clip(frames, clip.boxes)


def jitter_color(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Brightness, contrast and saturation times factors in 1 ± strength, the same for all frames."""
    frames = clip.pixels()
    for adjust in (colours.adjust_brightness, colours.adjust_contrast, colours.adjust_saturation):
        frames = adjust(frames, float(1 + strength * rng.uniform(-1, 1)))
    return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), clip.boxes)


def jitter_hsv(clip: Clip, degrees: float, share: float, rng: np.random.Generator) -> Clip:
    """Hue moved by up to ± `degrees`, saturation and value by up to ± `share` of 1, the same for all frames.

    As in AlphAction and the published detector: whole steps of 2 degrees and of 1/255.
    """
    most = round(degrees / 2), round(255 * share), round(255 * share)
    steps = [int(rng.integers(-limit, limit, endpoint=True)) for limit in most]
    frames = colours.shift_hsv(clip.pixels(), *steps)
    return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), clip.boxes)


def multi_scale_crop(clip: Clip, size: int, scales: tuple[float, ...], rng: np.random.Generator) -> Clip:
    """Cut at a corner, the centre or a middle between them, with sides from `scales` of the short side.

    Height and width take scales of their own, at most one step apart in the list (as in Temporal Segment
    Networks, Wang et al. 2016), then the cut is resized to size x size.
    """
    height, width = clip.size
    sides = [max(int(min(height, width) * scale), 1) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    row, column = rng.integers(5, size=2)  # quarters of the way from the top left to the bottom right
    return resize(crop(clip, (height - h) * row // 4, (width - w) * column // 4, h, w), size, size)


def random_resized_crop(
    clip: Clip, size: int, area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> Clip:
    """Cut a rectangle of random area (share of the frame) and aspect ratio, then resize it to size x size."""
    height, width = clip.size
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = float(np.exp(rng.uniform(*np.log(aspect))))
        h, w = round((pixels / ratio) ** 0.5), round((pixels * ratio) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            break
    else:
        h = w = min(height, width)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return resize(crop(clip, int(top), int(left), h, w), size, size)


def short_side_crop(
    clip: Clip, size: int, short_side: int, rng: np.random.Generator, to_whole: Rounding = round
) -> Clip:
    """Resize the short side, then cut size x size at random."""
    clip = resize_short_side(clip, short_side, to_whole)
    height, width = clip.size
    return crop(clip, int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1)), size, size)


def train_transform(clip: Clip, cfg: CfgNode, rng: np.random.Generator) -> Clip:
    """Crop, flip and colour jitter as INPUT says; the result is CROP_SIZE x CROP_SIZE."""
    node = cfg.INPUT
    if node.TRAIN_CROP == "multi_scale":
        clip = multi_scale_crop(clip, node.CROP_SIZE, node.CROP_SCALES, rng)
    elif node.TRAIN_CROP == "resized":
        clip = random_resized_crop(clip, node.CROP_SIZE, node.CROP_AREA, node.CROP_ASPECT, rng)
    else:
        clip = short_side_crop(clip, node.CROP_SIZE, node.TRAIN_SHORT_SIDE, rng, pixel_rounding(node))
    if rng.random() < node.FLIP:
        clip = flip(clip)
    if node.COLOR_JITTER:
        clip = jitter_color(clip, node.COLOR_JITTER, rng)
    if node.HUE_JITTER or node.SATURATION_VALUE_JITTER:
        clip = jitter_hsv(clip, node.HUE_JITTER, node.SATURATION_VALUE_JITTER, rng)
    return clip


def needed_short_side(cfg: CfgNode, training: bool) -> int:
    """Pixels of the frames' short side beyond which a larger frame would only be made smaller again."""
    node = cfg.INPUT
    if not training:
        return node.TEST_SHORT_SIDE
    if node.TRAIN_CROP == "short_side":
        return node.TRAIN_SHORT_SIDE
    if node.TRAIN_CROP == "multi_scale":
        smallest = min(node.CROP_SCALES)
    else:
        # The least side of a crop, that of the smallest and flattest one, where the frame is a square.
        smallest = (node.CROP_AREA[0] * min(node.CROP_ASPECT[0], 1 / node.CROP_ASPECT[1])) ** 0.5
    return math.ceil(node.CROP_SIZE / smallest)


def view_crop(clip: Clip, cfg: CfgNode, number: int = 0, num_crops: int = 1) -> Clip:
    """Crop `number` of `num_crops` squares spread along the longer side, after resizing to
    TEST_SHORT_SIDE."""
    to_whole = pixel_rounding(cfg.INPUT)
    clip = resize_short_side(clip, cfg.INPUT.TEST_SHORT_SIDE, to_whole)
    height, width = clip.size
    size = cfg.INPUT.CROP_SIZE
    share = number / (num_crops - 1) if num_crops > 1 else 0.5
    # Along the longer side the crops are spread; along the shorter they are centred.
    top_share, left_share = (share, 0.5) if height > width else (0.5, share)
    top, left = to_whole((height - size) * top_share), to_whole((width - size) * left_share)
    return crop(clip, top, left, size, size)


def full_frame_transform(clip: Clip, cfg: CfgNode) -> Clip:
    """The whole frame at TEST_SHORT_SIDE, padded to whole patches with the mean colour."""
    clip = resize_short_side(clip, cfg.INPUT.TEST_SHORT_SIDE, pixel_rounding(cfg.INPUT))
    return pad_to_multiple(clip, cfg.MODEL.BACKBONE.PATCH_SIZE, cfg.MODEL.PIXEL_MEAN)


def to_video(clip: Clip) -> torch.Tensor:
    """The frames as the model takes them, uint8 (3, T, H, W)."""
    frames = clip.pixels()
    video = np.empty((3, *frames.shape[:3]), dtype=np.uint8)
    cv2.split(frames.reshape(-1, frames.shape[2], 3), list(video.reshape(3, -1, frames.shape[2])))
    return torch.from_numpy(video)
