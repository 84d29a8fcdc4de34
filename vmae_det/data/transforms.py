"""Transforms of a clip together with its boxes: resize, crop, flip, pad and color jitter.

A clip is uint8 (T, 3, H, W) in channels-last memory layout, as it comes from the decoder. PyTorch's resize is
fastest with this layout. Boxes are float32 (N, 4), xyxy in pixels of the clip.
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
from vmae_det.data import color


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
        """Return the frames in OpenCV's layout, uint8 (T, H, W, 3), contiguous."""
        return np.ascontiguousarray(self.frames.permute(0, 2, 3, 1).numpy())


def make_clip(frames: np.ndarray, relative_boxes: np.ndarray | None = None) -> Clip:
    """Build a clip from decoded frames (T, H, W, 3) and boxes (N, 4) in [0, 1] of the frame."""
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
    """Return how sizes and positions in pixels are rounded under INPUT.CONVENTION."""
    return int if node.CONVENTION == "published" else round


def resize_short_side(clip: Clip, short_side: int, rounding: Rounding = round) -> Clip:
    """Resize the shorter side to a number of pixels, with the aspect ratio kept up to rounding."""
    return resize(clip, *resized_size(*clip.size, short_side, rounding))


def resized_size(height: int, width: int, short_side: int, rounding: Rounding = round) -> tuple[int, int]:
    """Return height and width with the shorter side at `short_side` and the aspect ratio kept."""
    shortest = min(height, width)
    return tuple(max(rounding(short_side * side / shortest), short_side) for side in (height, width))


def crop(clip: Clip, top: int, left: int, height: int, width: int) -> Clip:
    """Crop a rectangle. Boxes are shifted and clipped to it; those outside become empty."""
    boxes = clip.boxes
    if len(boxes):
        start = torch.tensor([left, top, left, top], dtype=torch.float32)
        limit = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = (boxes - start).clamp(min=0).minimum(limit)
    return Clip(clip.frames[..., top : top + height, left : left + width], boxes)


def flip(clip: Clip) -> Clip:
    """Flip horizontally."""
    x1, y1, x2, y2 = clip.boxes.unbind(1)
    width = clip.size[1]
    return Clip(clip.frames.flip(-1), torch.stack([width - x2, y1, width - x1, y2], dim=1))


def pad_to_multiple(clip: Clip, multiple: int, fill: tuple[float, float, float]) -> Clip:
    """Pad bottom and right with a color (0..255) until both sides are divisible by `multiple`."""
    height, width = clip.size
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return clip
    pixel = torch.tensor([round(value) for value in fill], dtype=torch.uint8).view(3, 1, 1)
    frames = pixel.expand(len(clip.frames), 3, height + bottom, width + right).clone()
    frames[..., :height, :width] = clip.frames
    return Clip(frames, clip.boxes)


def jitter_color(clip: Clip, strength: float, rng: np.random.Generator) -> Clip:
    """Scale brightness, contrast and saturation by factors in 1 ± strength, the same for all frames."""
    frames = clip.pixels()
    for adjust in (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation):
        frames = adjust(frames, float(1 + strength * rng.uniform(-1, 1)))
    return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), clip.boxes)


def jitter_hsv(clip: Clip, degrees: float, fraction: float, rng: np.random.Generator) -> Clip:
    """Shift hue by up to ± `degrees`, saturation and value by up to ± `fraction`, the same for all frames.

    As in AlphAction and the published detector, the steps are 2 degrees and 1/255.
    """
    limits = round(degrees / 2), round(255 * fraction), round(255 * fraction)
    steps = [int(rng.integers(-limit, limit, endpoint=True)) for limit in limits]
    frames = color.shift_hsv(clip.pixels(), *steps)
    return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), clip.boxes)


def multi_scale_crop(clip: Clip, size: int, scales: tuple[float, ...], rng: np.random.Generator) -> Clip:
    """Crop at a corner, the center or halfway between them, then resize to size x size.

    Height and width are random `scales` of the short side, at most one step apart in the list. As in Temporal
    Segment Networks (Wang et al., 2016).
    """
    height, width = clip.size
    sides = [max(int(min(height, width) * scale), 1) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    row, column = rng.integers(5, size=2)  # quarters of the distance from the top left to the bottom right
    return resize(crop(clip, (height - h) * row // 4, (width - w) * column // 4, h, w), size, size)


def random_resized_crop(
    clip: Clip, size: int, area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> Clip:
    """Crop a rectangle of random area (fraction of the frame) and aspect ratio, and resize it to a square."""
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
    clip: Clip, size: int, short_side: int, rng: np.random.Generator, rounding: Rounding = round
) -> Clip:
    """Resize the short side, then crop size x size at a random position."""
    clip = resize_short_side(clip, short_side, rounding)
    height, width = clip.size
    return crop(clip, int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1)), size, size)


def train_transform(clip: Clip, cfg: CfgNode, rng: np.random.Generator) -> Clip:
    """Crop, flip and color jitter by the keys of INPUT. The result is CROP_SIZE x CROP_SIZE."""
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
    """Return the short side in pixels up to which frames must be decoded: every crop only reduces them."""
    node = cfg.INPUT
    if not training:
        return node.TEST_SHORT_SIDE
    if node.TRAIN_CROP == "short_side":
        return node.TRAIN_SHORT_SIDE
    if node.TRAIN_CROP == "multi_scale":
        smallest = min(node.CROP_SCALES)
    else:
        # The shortest side of a crop of a square frame: that of the smallest and flattest one.
        smallest = (node.CROP_AREA[0] * min(node.CROP_ASPECT[0], 1 / node.CROP_ASPECT[1])) ** 0.5
    return math.ceil(node.CROP_SIZE / smallest)


def view_crop(clip: Clip, cfg: CfgNode, number: int = 0, num_crops: int = 1) -> Clip:
    """Return test crop `number` of `num_crops` squares evenly spaced along the longer side.

    The short side is resized to TEST_SHORT_SIDE first.
    """
    rounding = pixel_rounding(cfg.INPUT)
    clip = resize_short_side(clip, cfg.INPUT.TEST_SHORT_SIDE, rounding)
    height, width = clip.size
    size = cfg.INPUT.CROP_SIZE
    fraction = number / (num_crops - 1) if num_crops > 1 else 0.5
    # Crops are spaced along the longer side and centered along the shorter one.
    top_fraction, left_fraction = (fraction, 0.5) if height > width else (0.5, fraction)
    top, left = rounding((height - size) * top_fraction), rounding((width - size) * left_fraction)
    return crop(clip, top, left, size, size)


def detection_short_sides(cfg: CfgNode) -> tuple[int, ...]:
    """Return the short sides of test clips of detection, in pixels: TEST.SHORT_SIDES or TEST_SHORT_SIDE."""
    return cfg.TEST.SHORT_SIDES or (cfg.INPUT.TEST_SHORT_SIDE,)


def full_frame_transform(clip: Clip, cfg: CfgNode, short_side: int | None = None) -> Clip:
    """Test transform of detection: resize without cropping, pad to full patches with the mean color.

    Args:
        short_side: short side in pixels; None: INPUT.TEST_SHORT_SIDE.
    """
    side = short_side or cfg.INPUT.TEST_SHORT_SIDE
    clip = resize_short_side(clip, side, pixel_rounding(cfg.INPUT))
    return pad_to_multiple(clip, cfg.MODEL.BACKBONE.PATCH_SIZE, cfg.MODEL.PIXEL_MEAN)


def to_video(clip: Clip) -> torch.Tensor:
    """Return the frames as model input, uint8 (3, T, H, W)."""
    frames = clip.pixels()
    video = np.empty((3, *frames.shape[:3]), dtype=np.uint8)
    cv2.split(frames.reshape(-1, frames.shape[2], 3), list(video.reshape(3, -1, frames.shape[2])))
    return torch.from_numpy(video)
