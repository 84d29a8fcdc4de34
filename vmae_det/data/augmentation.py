"""Augmentation of classification clips: RandAugment and random erasing. See mixup.py for MixUp and CutMix.

Random numbers come from the generator passed as argument. All frames of a clip share the same draws.
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
from vmae_det.data import color
from vmae_det.data.transforms import Clip

ERASED_AREA = (0.02, 1 / 3)  # fraction of the frame; this and the next two as in timm
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASE_ATTEMPTS = 10

_BYTES = np.arange(256)


class ClipAugmentation:
    """RandAugment and random erasing of a training clip, by the keys of INPUT."""

    def __init__(self, cfg: CfgNode) -> None:
        self.mean, self.std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
        self.erasing = cfg.INPUT.RANDOM_ERASING
        config_str = cfg.INPUT.RAND_AUGMENT
        self.rand_augment = ClipRandAugment(config_str, self.mean) if config_str else None
        self.before_crop = cfg.INPUT.RAND_AUGMENT_WHOLE_FRAME

    def __call__(
        self, clip: Clip, rng: np.random.Generator, crop: Callable[[Clip, np.random.Generator], Clip]
    ) -> Clip:
        """Augment a decoded clip, and bring it to its final size by `crop`."""
        if self.rand_augment and self.before_crop:
            clip = self.rand_augment(clip, rng)
        clip = crop(clip, rng)
        if self.rand_augment and not self.before_crop:
            clip = self.rand_augment(clip, rng)
        if self.erasing:
            clip = erase_rectangle(clip, self.erasing, self.mean, self.std, rng)
        return clip


def erase_rectangle(
    clip: Clip,
    probability: float,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    rng: np.random.Generator,
) -> Clip:
    """Random erasing (Zhong et al., 2020): replace a rectangle by noise, the same in all frames.

    The noise is that of timm's mode "pixel", in units of bytes.

    Args:
        clip: the clip.
        probability: probability of erasing.
        mean, std: mean and standard deviation of the noise (R, G, B, 0..255), those of the model's input
            normalization.
        rng: random generator.
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


class ClipRandAugment:
    """timm's RandAugment (Cubuk et al., 2020) with the same operations and magnitudes for all frames.

    timm draws the operations, OpenCV applies them. Colors equal those of timm up to 1 of 255. Geometric
    operations use bilinear interpolation, which takes a third of the time of the bicubic interpolation in the
    authors' code.

    Args:
        config_str: configuration in timm's format, e.g. rand-m9-mstd0.5-inc1.
        fill: color of pixels from outside the frame, R, G, B in 0..255.
    """

    def __init__(self, config_str: str, fill: tuple[float, float, float]) -> None:
        from timm.data import auto_augment  # slow to import, and used by few configs

        options = {"img_mean": tuple(round(value) for value in fill)}
        self.augment = auto_augment.rand_augment_transform(config_str, options)
        for operation in self.augment.ops:
            operation.aug_fn = OPERATIONS[operation.aug_fn.__name__]

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Augment a clip. Boxes are not changed, since classification does not use them."""
        seed = int(rng.integers(2**32))
        frames = clip.pixels()
        with _restore_global_generators():
            random.seed(seed)
            np.random.seed(seed)
            frames = self.augment(frames)
        return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), clip.boxes)


@contextmanager
def _restore_global_generators() -> Iterator[None]:
    """Restore the global generators, from which timm draws, at the end of the block."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _invert(frames: np.ndarray) -> np.ndarray:
    return 255 - frames


def _posterize(frames: np.ndarray, bits: int) -> np.ndarray:
    # timm passes 0 bits at the largest magnitude, which would erase everything.
    return frames & np.uint8(-(1 << 8 - max(bits, 1)) & 255)


def _solarize_add(frames: np.ndarray, added: int, threshold: int = 128) -> np.ndarray:
    table = np.where(threshold > _BYTES, np.minimum(_BYTES + added, 255), _BYTES)
    return color.apply_tables(frames, table.astype(np.uint8))


def _desaturate(frames: np.ndarray, strength: float) -> np.ndarray:
    return color.adjust_saturation(frames, min(max(1 - strength, 0), 1))


def _random_blur(frames: np.ndarray, strength: float) -> np.ndarray:
    return color.blur(frames, random.uniform(0.1, 2.0 * strength))


def _shear_x(frames: np.ndarray, factor: float, **fill: Any) -> np.ndarray:
    return _warp(frames, [[1, factor, 0], [0, 1, 0]], **fill)


def _shear_y(frames: np.ndarray, factor: float, **fill: Any) -> np.ndarray:
    return _warp(frames, [[1, 0, 0], [factor, 1, 0]], **fill)


def _translate_x(frames: np.ndarray, pixels: float, **fill: Any) -> np.ndarray:
    return _warp(frames, [[1, 0, pixels], [0, 1, 0]], **fill)


def _translate_y(frames: np.ndarray, pixels: float, **fill: Any) -> np.ndarray:
    return _warp(frames, [[1, 0, 0], [0, 1, pixels]], **fill)


def _translate_x_relative(frames: np.ndarray, fraction: float, **fill: Any) -> np.ndarray:
    return _translate_x(frames, fraction * frames.shape[2], **fill)


def _translate_y_relative(frames: np.ndarray, fraction: float, **fill: Any) -> np.ndarray:
    return _translate_y(frames, fraction * frames.shape[1], **fill)


def _rotate(frames: np.ndarray, degrees: float, **fill: Any) -> np.ndarray:
    """Rotate counter-clockwise around the center."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = frames.shape[1] / 2, frames.shape[2] / 2
    return _warp(frames, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]], **fill)


def _warp(frames: np.ndarray, matrix: list[list[float]], fillcolor: tuple[int, ...], **_: Any) -> np.ndarray:
    """Affine warp: the output at (x, y) is the input at `matrix` (2, 3) times (x, y, 1).

    Coordinates are measured from the corner of the first pixel.
    """
    matrix = np.array(matrix, dtype=np.float64)
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5  # OpenCV's origin is the center of the first pixel
    size = frames.shape[2], frames.shape[1]
    options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderValue": fillcolor}
    out = np.empty_like(frames)
    for frame, target in zip(frames, out):
        cv2.warpAffine(frame, matrix, size, target, **options)
    return out


def _color_operation(function: Any) -> Any:
    """Adapt a function that does not use the fill color and interpolation passed by timm."""

    @functools.wraps(function)
    def operation(frames: np.ndarray, *level: float, **_: Any) -> np.ndarray:
        return function(frames, *level)

    return operation


# By the names of timm's functions.
OPERATIONS = {
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x_abs": _translate_x,
    "translate_y_abs": _translate_y,
    "translate_x_rel": _translate_x_relative,
    "translate_y_rel": _translate_y_relative,
    "rotate": _rotate,
    "auto_contrast": _color_operation(color.stretch_contrast),
    "equalize": _color_operation(color.equalize),
    "invert": _color_operation(_invert),
    "posterize": _color_operation(_posterize),
    "solarize": _color_operation(color.solarize),
    "solarize_add": _color_operation(_solarize_add),
    "color": _color_operation(color.adjust_saturation),
    "contrast": _color_operation(color.adjust_contrast),
    "brightness": _color_operation(color.adjust_brightness),
    "sharpness": _color_operation(color.adjust_sharpness),
    "desaturate": _color_operation(_desaturate),
    "gaussian_blur": _color_operation(color.blur),
    "gaussian_blur_rand": _color_operation(_random_blur),
}
