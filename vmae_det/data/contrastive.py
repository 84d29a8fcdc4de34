"""Pairs of views of a video for contrastive pre-training, and labeled clips to evaluate its features."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data import color, transforms
from vmae_det.data.catalog import DatasetSpec, get_dataset
from vmae_det.data.classes import ModelClasses
from vmae_det.data.datasets import DATASET_REGISTRY, Sample, UnlabeledVideos, check_labels
from vmae_det.data.transforms import Clip, make_clip
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.discovery import VideoPaths
from vmae_det.video.sampling import evenly_spaced_clip, random_clip

JITTER = 0.8  # probability of color jitter; this and the following as in MoCo v3 and BYOL
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1  # hue in turns of the color circle
GRAY = 0.2  # probability
SIGMA = (0.1, 2.0)  # standard deviation of the blur, in pixels of a frame of 224 x 224
SOLARIZE_THRESHOLD = 128


class View(NamedTuple):
    """Probabilities of the operations in which the two views of a video differ."""

    blur: float
    solarize: float


VIEWS = (View(blur=1.0, solarize=0.0), View(blur=0.1, solarize=0.2))


def augment_view(clip: Clip, view: View, rng: np.random.Generator) -> Clip:
    """Jitter colors, drop them, blur and solarize at random, the same in all frames.

    Args:
        clip: square, of the size of the model's input. The blur is in proportion to it.
        view: probabilities.
        rng: random generator.
    """
    frames = clip.pixels()
    if rng.random() < JITTER:
        frames = jitter(frames, rng)
    if rng.random() < GRAY:
        frames = color.adjust_saturation(frames, 0.0)
    if rng.random() < view.blur:
        frames = color.blur(frames, rng.uniform(*SIGMA) * clip.size[0] / 224)
    if rng.random() < view.solarize:
        frames = color.solarize(frames, SOLARIZE_THRESHOLD)
    return Clip(torch.from_numpy(frames).permute(0, 3, 1, 2), clip.boxes)


def jitter(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of frames (T, H, W, 3), in random order.

    As torchvision's ColorJitter. The steps of the hue are 2 degrees.
    """
    factors = 1 + np.array([BRIGHTNESS, CONTRAST, SATURATION]) * rng.uniform(-1, 1, 3)
    hue = round(180 * HUE * rng.uniform(-1, 1))
    adjust = (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation)
    operations = [functools.partial(f, factor=float(factor)) for f, factor in zip(adjust, factors)]
    operations.append(functools.partial(color.shift_hsv, hue=hue, saturation=0, value=0))
    for number in rng.permutation(len(operations)):
        frames = operations[number](frames)
    return frames


@DATASET_REGISTRY.register_as("contrastive")
class ContrastiveVideos(UnlabeledVideos):
    """Two clips of each video at independent random times, `video` and `video2`; labeled clips in testing.

    Each clip is cropped and flipped by the keys of INPUT, then augmented as one of VIEWS. The videos may be
    those of a dataset of any type.

    A test set is of type classification. Its samples are the center clips of its videos with their `label`,
    and then those of the videos of TEST.KNN_BANK, for which `in_bank` is True. The labels of both are class
    indices of the test set.
    """

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        super().__init__(cfg, spec, training)
        if training:
            return
        parts = [(spec, "DATASETS.TEST")]
        if cfg.TEST.KNN_BANK:
            key = "TEST.KNN_BANK"
            parts.append((get_dataset(cfg.TEST.KNN_BANK, cfg.DATASETS.ROOT, key), key))
        sets = [_read_labels(*part) for part in parts]
        self.test_files = [files for files, _ in sets]
        self.labels = np.concatenate([labels for _, labels in sets])
        if len(parts) == 2:
            self.labels[len(sets[0][1]) :] = _convert_labels(sets[1][1], parts[1][0], spec)

    def __len__(self) -> int:
        return super().__len__() if self.training else len(self.labels)

    @property
    def num_files(self) -> int:
        """Number of video files."""
        return super().num_files if self.training else len(self.labels)

    def _test_video(self, index: int) -> tuple[VideoPaths, int]:
        """Return the list that contains a test video, and its position in it."""
        files, *bank = self.test_files
        return (files, index) if index < len(files) else (bank[0], index - len(files))

    def path_of(self, index: int) -> Path:
        """Return the video of a clip."""
        if self.training:
            return super().path_of(index)
        files, position = self._test_video(index)
        return files[position]

    def load(self, index: int, rng: np.random.Generator) -> tuple[Clip, Sample]:
        """Return two random clips: the first view, and the second as `video2`."""
        reader = self.open_cached(self.files.location(index % len(self.files)))
        clips = [random_clip(len(reader), *self.clip_sampling, rng) for _ in VIEWS]
        needed, positions = np.unique(np.concatenate(clips), return_inverse=True)
        frames = reader.frames(needed)
        first, second = (make_clip(frames[part]) for part in np.split(positions, len(VIEWS)))
        return first, {"video2": second}

    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """Return the center crop of the clip in the center of the video, with its label."""
        files, position = self._test_video(index)
        reader = self.open(files.location(position))
        clip = make_clip(reader.frames(evenly_spaced_clip(len(reader), *self.clip_sampling, 0, 1)))
        entries = {"label": int(self.labels[index]), "in_bank": files is not self.test_files[0]}
        return transforms.view_crop(clip, self.cfg), entries

    def transform(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Return the first view."""
        return augment_view(super().transform(clip, rng), VIEWS[0], rng)

    def _make_sample(self, clip: Clip, extra: Sample, index: int, entropy: tuple[int, ...]) -> Sample:
        if self.training:
            rng = np.random.default_rng((*entropy, 1))  # the first view has drawn from (*entropy)
            second = augment_view(super().transform(extra["video2"], rng), VIEWS[1], rng)
            extra = {"video2": transforms.to_video(second)}
        return super()._make_sample(clip, extra, index, entropy)

    def finish(self, clip: Clip, extra: Sample) -> Sample:
        """Return the second view, or the label."""
        return extra


def _read_labels(spec: DatasetSpec, key: str) -> tuple[VideoPaths, np.ndarray]:
    """Return the videos of a set and their class indices (n,).

    Raises:
        ConfigError: it has no labels of videos.
        DataError: it has no videos, or a label is not in its label map.
    """
    if spec.type != "classification":
        remedy = ", or () to train without evaluation" if key == "DATASETS.TEST" else ""
        raise ConfigError(
            f"{key}: '{spec.name}' is of type '{spec.type}', without a label for each video, but the kNN "
            f"accuracy of features needs one; set a dataset of type 'classification'{remedy}"
        )
    files, labels = spec.labeled_videos()
    if not len(labels):
        raise DataError("has no videos", str(spec.annotations or spec.videos))
    if spec.label_map is not None:
        check_labels(labels, LabelMap.from_file(spec.label_map), spec)
    return files, labels


def _convert_labels(labels: np.ndarray, bank: DatasetSpec, test: DatasetSpec) -> np.ndarray:
    """Return the labels of a bank (n,) as class indices of a test set, matched by name if both have names.

    Raises:
        ConfigError: the test set lacks a class of the bank.
    """
    if bank.label_map is None or test.label_map is None:
        return labels
    classes = ModelClasses(LabelMap.from_file(test.label_map), str(test.label_map))
    return classes.columns_of(LabelMap.from_file(bank.label_map), str(bank.label_map))[labels]
