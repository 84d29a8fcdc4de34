"""Augmentation for classification alone: RandAugment and erasing of a clip, mixup and cutmix of a batch.

Random numbers come from a generator that is handed in. What is drawn for a clip is drawn once, for all of
its frames.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data import color as colours
from vmae_det.data.transforms import Clip

ERASED_AREA = (0.02, 1 / 3)  # of the frame; these and the next as in timm
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASE_ATTEMPTS = 10


def erase_rectangle(
    clip: Clip,
    probability: float,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    rng: np.random.Generator,
) -> Clip:
    """With a probability, put noise in place of a rectangle (Zhong et al., 2020), the same in all frames.

    The noise is that of timm's mode "pixel" in units of bytes: normal, with the mean and deviation (R, G, B,
    0..255) by which the model normalises.
    """
    if rng.random() >= probability:
        return clip
    height, width = clip.size
    for _ in range(ERASE_ATTEMPTS):
        pixels = height * width * rng.uniform(*ERASED_AREA)
        ratio = np.exp(rng.uniform(*np.log(ERASED_ASPECT)))  # height over width
        h, w = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < h < height and 0 < w < width:
            break
    else:
        return clip
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    noise = rng.normal(np.reshape(mean, (3, 1, 1)), np.reshape(std, (3, 1, 1)), (3, h, w))
    noise = torch.from_numpy(noise.round().clip(0, 255).astype(np.uint8))
    frames = clip.frames.clone()
    frames[..., top : top + h, left : left + w] = noise
    return Clip(frames, clip.boxes)


class ClipAugmentation:
    """RandAugment and erasing of a training clip as INPUT says."""

    def __init__(self, cfg: CfgNode) -> None:
        self.mean, self.std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
        self.erasing = cfg.INPUT.RANDOM_ERASING
        name = cfg.INPUT.RAND_AUGMENT
        self.rand_augment = ClipRandAugment(name, self.mean) if name else None
        self.full_frame_transform = cfg.INPUT.RAND_AUGMENT_WHOLE_FRAME

    def __call__(
        self, clip: Clip, rng: np.random.Generator, cut: Callable[[Clip, np.random.Generator], Clip]
    ) -> Clip:
        """A decoded clip changed, and cut to its final size by `cut`."""
        if self.rand_augment and self.full_frame_transform:
            clip = self.rand_augment(clip, rng)
        clip = cut(clip, rng)
        if self.rand_augment and not self.full_frame_transform:
            clip = self.rand_augment(clip, rng)
        if self.erasing:
            clip = erase_rectangle(clip, self.erasing, self.mean, self.std, rng)
        return clip


_BYTES = np.arange(256)


class ClipRandAugment:
    """timm's RandAugment (Cubuk et al., 2020), with the same operations and magnitudes for all frames.

    What is drawn is timm's. Colours come out as timm's do, to 1 of 255; what is sheared, rotated or moved is
    interpolated bilinearly, in a third of the time of the bicubic kernel that the papers' programs use.

    Args:
        description: as timm reads it, e.g. rand-m9-mstd0.5-inc1.
        fill: colour of the corners that a shear or a rotation lays bare, R, G, B in 0..255.
    """

    def __init__(self, description: str, fill: tuple[float, float, float]) -> None:
        options = {"img_mean": tuple(round(value) for value in fill)}
        from timm.data import auto_augment  # slow to import, and used by one recipe

        self.augment = auto_augment.rand_augment_transform(description, options)
        for operation in self.augment.ops:
            operation.aug_fn = OPERATIONS[operation.aug_fn.__name__]

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip changed as `rng` says; boxes stay, as they have no place in classification."""
        seed = int(rng.integers(2**32))
        frames = clip.pixels()
        with _own_global_generators():
            random.seed(seed)
            np.random.seed(seed)
            frames = self.augment(frames)
        return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), clip.boxes)


@contextmanager
def _own_global_generators() -> Iterator[None]:
    """timm draws from the generators that the whole process shares: leaves them as they were."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _invert(frames: np.ndarray) -> np.ndarray:
    return 255 - frames


def _posterize(frames: np.ndarray, bits: int) -> np.ndarray:
    # timm asks for 0 bits at the strongest magnitude, which would leave nothing.
    return frames & np.uint8(-(1 << 8 - max(bits, 1)) & 255)


def _solarize(frames: np.ndarray, threshold: int) -> np.ndarray:
    table = np.where(threshold > _BYTES, _BYTES, 255 - _BYTES)
    return colours.apply_tables(frames, table.astype(np.uint8))


def _solarize_add(frames: np.ndarray, added: int, threshold: int = 128) -> np.ndarray:
    table = np.where(threshold > _BYTES, np.minimum(_BYTES + added, 255), _BYTES)
    return colours.apply_tables(frames, table.astype(np.uint8))


def _desaturate(frames: np.ndarray, strength: float) -> np.ndarray:
    return colours.adjust_saturation(frames, min(max(1 - strength, 0), 1))


def _blur_at_random(frames: np.ndarray, strength: float) -> np.ndarray:
    return colours.blur(frames, random.uniform(0.1, 2.0 * strength))


def _shear_x(frames: np.ndarray, factor: float, **fill: Any) -> np.ndarray:
    return _warp(frames, [[1, factor, 0], [0, 1, 0]], **fill)


def _shear_y(frames: np.ndarray, factor: float, **fill: Any) -> np.ndarray:
    return _warp(frames, [[1, 0, 0], [factor, 1, 0]], **fill)


def _move_x(frames: np.ndarray, pixels: float, **fill: Any) -> np.ndarray:
    return _warp(frames, [[1, 0, pixels], [0, 1, 0]], **fill)


def _move_y(frames: np.ndarray, pixels: float, **fill: Any) -> np.ndarray:
    return _warp(frames, [[1, 0, 0], [0, 1, pixels]], **fill)


def _move_x_by_share(frames: np.ndarray, share: float, **fill: Any) -> np.ndarray:
    return _move_x(frames, share * frames.shape[2], **fill)


def _move_y_by_share(frames: np.ndarray, share: float, **fill: Any) -> np.ndarray:
    return _move_y(frames, share * frames.shape[1], **fill)


def _rotate(frames: np.ndarray, degrees: float, **fill: Any) -> np.ndarray:
    """Counter-clockwise around the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = frames.shape[1] / 2, frames.shape[2] / 2
    return _warp(frames, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]], **fill)


def _warp(frames: np.ndarray, matrix: list[list[float]], fillcolor: tuple[int, ...], **_: Any) -> np.ndarray:
    """Frames that show at (x, y), counted from the corner, what was at `matrix` (2, 3) times (x, y, 1)."""
    matrix = np.array(matrix, dtype=np.float64)
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5  # OpenCV puts (0, 0) into the middle of the first pixel
    size = frames.shape[2], frames.shape[1]
    how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderValue": fillcolor}
    out = np.empty_like(frames)
    for frame, target in zip(frames, out):
        cv2.warpAffine(frame, matrix, size, target, **how)
    return out


def _colours_alone(change: Any) -> Any:
    """An operation that does not look at what timm says of the fill colour and the interpolation."""

    @functools.wraps(change)
    def operation(frames: np.ndarray, *level: float, **_: Any) -> np.ndarray:
        return change(frames, *level)

    return operation


OPERATIONS = {
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x_abs": _move_x,
    "translate_y_abs": _move_y,
    "translate_x_rel": _move_x_by_share,
    "translate_y_rel": _move_y_by_share,
    "rotate": _rotate,
    "auto_contrast": _colours_alone(colours.stretch_contrast),
    "equalize": _colours_alone(colours.equalize),
    "invert": _colours_alone(_invert),
    "posterize": _colours_alone(_posterize),
    "solarize": _colours_alone(_solarize),
    "solarize_add": _colours_alone(_solarize_add),
    "color": _colours_alone(colours.adjust_saturation),
    "contrast": _colours_alone(colours.adjust_contrast),
    "brightness": _colours_alone(colours.adjust_brightness),
    "sharpness": _colours_alone(colours.adjust_sharpness),
    "desaturate": _colours_alone(_desaturate),
    "gaussian_blur": _colours_alone(colours.blur),
    "gaussian_blur_rand": _colours_alone(_blur_at_random),
}
