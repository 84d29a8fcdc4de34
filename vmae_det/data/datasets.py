"""Datasets: one class per task, which reads samples of the dataset that a `DatasetSpec` describes.

The key of a sample is (epoch, index). All random numbers depend on the seed, the epoch and the index only. A
key returns a list of samples, because training may cut several from one decoded clip.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.config.checks import num_classes, uses_model_persons
from vmae_det.data import transforms
from vmae_det.data.augmentation import ClipAugmentation
from vmae_det.data.catalog import DatasetSpec
from vmae_det.data.classes import ModelClasses
from vmae_det.data.decoded_cache import ClipCache, VideoCache
from vmae_det.data.negative_persons import add_negative_persons
from vmae_det.data.train_fraction import choose_videos
from vmae_det.data.transforms import Clip, make_clip
from vmae_det.formats.ava_csv import LabelMap, read_action_csv, read_excluded_keyframes
from vmae_det.formats.keyframes import KeyframeBoxes, group_by_keyframe, keyframes_without_boxes
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.registry import Registry
from vmae_det.video.discovery import VideoPaths, find_videos, resolve_video_ids
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.readers.base import TimeOutsideVideoError, VideoLocation
from vmae_det.video.sampling import (
    describe_keyframe,
    evenly_spaced_clip,
    random_clip,
    sample_keyframe_clip,
    sample_test_clip,
    sample_training_clip,
    target_clip,
)

logger = logging.getLogger(__name__)

# By the task of the model, or by "TASK/TYPE" for a registered type of dataset.
DATASET_REGISTRY = Registry("DATASET")

Sample = dict[str, Any]


class ClipDataset(torch.utils.data.Dataset, ABC):
    """Base class of the datasets of all tasks: decoding, transforms, and random numbers by epoch and index.

    A sample contains `video` uint8 (3, T, H, W), `seed` (int64, for random numbers in the model), `index` (of
    the clip in the dataset), and the entries of the task.

    Attributes:
        files: the videos.
        label_map: classes of the dataset; None if it has no classes, or no names for them.
        columns: output of the model for each class; None if they are in the same order.
        has_train_fraction: whether it implements DATASETS.TRAIN_FRACTION; others refuse it.
    """

    files: VideoPaths
    label_map: LabelMap | None = None
    columns: np.ndarray | None = None
    has_train_fraction = False

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        self.cfg = cfg
        self.spec = spec
        self.training = training
        self.videos = VideoCache(cfg.DATALOADER.CACHE_MB if training else 0)
        if self.reads_fraction and not self.has_train_fraction:
            raise ConfigError(
                f"DATASETS.TRAIN_FRACTION: {cfg.DATASETS.TRAIN_FRACTION:g}, but {type(self).__name__} does "
                "not implement it; set it to 1"
            )

    @property
    def reads_fraction(self) -> bool:
        """Whether this is a part of the videos of a training set (DATASETS.TRAIN_FRACTION)."""
        return self.training and self.cfg.DATASETS.TRAIN_FRACTION < 1

    def choose_videos(self, classes: np.ndarray) -> np.ndarray:
        """Return the indices of the videos of DATASETS.TRAIN_FRACTION, from the class of each video (N,)."""
        return choose_videos(self.cfg.DATASETS.TRAIN_FRACTION, classes, self.spec.name)

    def use_classes(self, classes: ModelClasses) -> None:
        """Label samples for a model with these classes, matched by name.

        Raises:
            ConfigError: the model lacks a class of the dataset.
        """
        if self.label_map is not None:
            self.columns = classes.columns_of(self.label_map, str(self.spec.label_map))

    def class_counts(self, number: int) -> np.ndarray | None:
        """Return the labels of each of the model's `number` classes, counted, int64; None without classes."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of clips per epoch."""

    @property
    def num_files(self) -> int:
        """Number of video files."""
        return len(self.files)

    @abstractmethod
    def path_of(self, index: int) -> Path:
        """Return the video that a sample is cut from."""

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator) -> tuple[Clip, Sample]:
        """Return a decoded training clip and the entries that the task adds to its samples."""

    @abstractmethod
    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """Return a transformed test clip and the entries that the task adds to its sample."""

    def transform(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Transform a decoded training clip to the input of the model."""
        return transforms.train_transform(clip, self.cfg, rng)

    def finish(self, clip: Clip, extra: Sample) -> Sample:
        """Return the entries that the task adds to a sample, after the clip was transformed."""
        return extra

    def __getitem__(self, key: tuple[int, int]) -> list[Sample]:
        epoch, index = key
        entropy = (self.cfg.SEED, epoch, index)
        if not self.training:
            clip, extra = self.load_test(index)
            return [self._make_sample(clip, extra, index, entropy)]
        clip, extra = self.load(index, np.random.default_rng(entropy))
        samples = []
        for copy in range(self.cfg.DATALOADER.REPEATED_AUG):
            rng = np.random.default_rng((*entropy, copy))
            transformed = self.transform(clip, rng)
            samples.append(self._make_sample(transformed, extra, index, (*entropy, copy)))
        return samples

    def _make_sample(self, clip: Clip, extra: Sample, index: int, entropy: tuple[int, ...]) -> Sample:
        seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64).astype(np.int64)[0]
        sample = {"video": transforms.to_video(clip), "seed": int(seed), "index": index}
        if self.training:
            sample["path"] = str(self.path_of(index))
        return sample | self.finish(clip, extra)

    def needed_short_side(self) -> int:
        """Return the short side in pixels up to which frames must be decoded."""
        return transforms.needed_short_side(self.cfg, self.training)

    def open(self, video: Path | VideoLocation) -> VideoReader:
        """Open a video for decoding at the size that the transforms need."""
        node = self.cfg.DATALOADER
        side = self.needed_short_side() if node.DECODE_SMALLER else None
        return open_video(video, node.READER, short_side=side)

    def open_cached(self, video: VideoLocation) -> VideoReader:
        """Open a video, or return it from the cache of decoded videos."""
        return self.videos.get(video, lambda: self.open(video))


@DATASET_REGISTRY.register_as("pretraining")
class UnlabeledVideos(ClipDataset):
    """Clips from the videos of a dataset of any type, without labels.

    An epoch of training takes CLIPS_PER_VIDEO clips from each video. Testing takes the clip in its center. If
    the frames to reconstruct (MODEL.RECONSTRUCTION) differ from those of the clip, a sample contains them as
    `target`, uint8 (3, T', H, W), transformed like the video.
    """

    has_train_fraction = True

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        super().__init__(cfg, spec, training)
        if spec.type == "classification":
            self.files, classes = spec.labeled_videos()
        elif spec.type == "detection":
            annotations = read_action_csv(spec.annotations, unknown_actions="ignore")
            self.files = resolve_video_ids(annotations.videos, spec.videos)
        else:
            self.files = find_videos(spec.videos)
        if self.reads_fraction:  # of a set with classes, the videos that training with classes would use
            has_classes = spec.type == "classification"
            chosen = self.choose_videos(classes if has_classes else np.zeros(len(self.files), dtype=np.int64))
            self.files = self.files.select(chosen)
        node, target = cfg.INPUT, cfg.MODEL.RECONSTRUCTION
        # Number of frames and sampling rate.
        self.clip_sampling = node.NUM_FRAMES, node.SAMPLING_RATE
        self.target_sampling = (
            target.NUM_FRAMES or node.NUM_FRAMES,
            target.SAMPLING_RATE or node.SAMPLING_RATE,
        )

    def __len__(self) -> int:
        return len(self.files) * (self.cfg.DATALOADER.CLIPS_PER_VIDEO if self.training else 1)

    def path_of(self, index: int) -> Path:
        """Return the video of a clip."""
        return self.files[index % len(self.files)]

    def load(self, index: int, rng: np.random.Generator) -> tuple[Clip, Sample]:
        """Return a random clip."""
        reader = self.open_cached(self.files.location(index % len(self.files)))
        return self._decode(reader, random_clip(len(reader), *self.clip_sampling, rng))

    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """Return the center crop of the clip in the center of the video."""
        reader = self.open(self.files.location(index))
        clip, extra = self._decode(reader, evenly_spaced_clip(len(reader), *self.clip_sampling, 0, 1))
        return transforms.view_crop(clip, self.cfg), extra

    def _decode(self, reader: VideoReader, video: np.ndarray) -> tuple[Clip, Sample]:
        """Decode the frames `video`. If there is a target, decode its frames too.

        In that case the clip contains each frame once, and `positions` are those of video and target in it.
        """
        if self.target_sampling == self.clip_sampling:
            return make_clip(reader.frames(video)), {}
        target = target_clip(video, self.clip_sampling[1], len(reader), *self.target_sampling)
        frames, positions = np.unique(np.concatenate([video, target]), return_inverse=True)
        return make_clip(reader.frames(frames)), {"positions": np.split(positions, [len(video)])}

    def finish(self, clip: Clip, extra: Sample) -> Sample:
        """Separate `video` and `target` if there is a target."""
        parts = zip(("video", "target"), extra.get("positions", ()))
        return {
            name: transforms.to_video(Clip(clip.frames[positions], clip.boxes)) for name, positions in parts
        }


def check_labels(labels: np.ndarray, label_map: LabelMap, spec: DatasetSpec) -> None:
    """Raise a DataError if a label (n,) of a classification dataset is outside of its label map."""
    highest = labels.max()
    if highest >= len(label_map):
        raise DataError(
            f"has a label {highest}, but the {len(label_map)} classes of {spec.label_map} are numbered from "
            f"0 to {len(label_map) - 1}; correct the label, or add its class to the label map",
            str(spec.annotations or spec.videos),
        )


@DATASET_REGISTRY.register_as("classification")
class LabeledVideos(ClipDataset):
    """Videos with one class each, `label`. In testing a video has several views with one `video_index`."""

    has_train_fraction = True

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        super().__init__(cfg, spec, training)
        self.files, self.labels = self.read_videos()
        if self.reads_fraction:
            chosen = self.choose_videos(self.labels)
            self.files, self.labels = self.files.select(chosen), self.labels[chosen]
        if spec.label_map is not None:
            self.label_map = LabelMap.from_file(spec.label_map)
            check_labels(self.labels, self.label_map, spec)
        classes, max_label = num_classes(cfg, "CLASSIFIER"), self.labels.max()
        if max_label >= classes:
            raise ConfigError(
                f"MODEL.CLASSIFIER.NUM_CLASSES: {classes}, but {spec.annotations or spec.videos} has a label "
                f"{max_label}: set it to {max_label + 1} or more"
            )
        self.views = cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS
        self.augment = ClipAugmentation(cfg)

    def read_videos(self) -> tuple[VideoPaths, np.ndarray]:
        """Return the videos and their class indices, int64 (n,). Override it for labels in another form."""
        _require_type(self.spec, "classification")
        return self.spec.labeled_videos()

    def use_classes(self, classes: ModelClasses) -> None:
        """Convert the labels to the model's outputs (see `ClipDataset.use_classes`)."""
        super().use_classes(classes)
        if self.columns is not None:
            self.labels = self.columns[self.labels]
        else:
            logger.warning(
                "%s: has no class names; its labels are interpreted as those of %s in the same order",
                self.spec.name,
                classes.source,
            )

    def class_counts(self, number: int) -> np.ndarray:
        """Return the number of videos of each class."""
        return np.bincount(self.labels, minlength=number)

    def __len__(self) -> int:
        return len(self.files) * (1 if self.training else self.views)

    def path_of(self, index: int) -> Path:
        """Return the video of a clip, or of a view in testing."""
        return self.files[index if self.training else index // self.views]

    def load(self, index: int, rng: np.random.Generator) -> tuple[Clip, Sample]:
        """Return a random clip, or a random frame of each segment, by INPUT.SAMPLING."""
        reader = self.open_cached(self.files.location(index))
        frames = sample_training_clip(self.cfg.INPUT, len(reader), rng)
        return make_clip(reader.frames(frames)), {"label": int(self.labels[index])}

    def transform(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Apply the transforms of all tasks and the augmentation of classification."""
        return self.augment(clip, rng, super().transform)

    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """Return one view of a video."""
        test = self.cfg.TEST
        video, view = divmod(index, self.views)
        clip_number, crop_number = divmod(view, test.NUM_CROPS)
        reader = self.open(self.files.location(video))
        frames = sample_test_clip(self.cfg.INPUT, len(reader), clip_number, test.NUM_CLIPS)
        clip = make_clip(reader.frames(frames))
        clip = transforms.view_crop(clip, self.cfg, crop_number, test.NUM_CROPS)
        return clip, {"label": int(self.labels[video]), "video_index": video}


@DATASET_REGISTRY.register_as("detection")
class ActionKeyframes(ClipDataset):
    """Keyframes with persons. Keyframes without a person, and excluded ones, are skipped.

    Training samples contain the annotated `boxes` (N, 4) in pixels and multi-hot `labels` (N, classes), and
    the boxes of DATASETS.NEGATIVE_PERSONS, whose labels are all 0; and `complete_persons`, whether these are
    all people. Test samples contain the `boxes` of detected persons with `person_scores` (N,), and for the
    results file `boxes_relative` (N, 4) in [0, 1], `video_name` and `timestamp`. With several
    TEST.SHORT_SIDES, `views` contains `video`, `boxes` and `size` at each one after the first.

    If the model finds the people (TEST.PERSON_BOXES), test samples are the keyframes that the annotations
    name, with a person or without. They have no boxes and person scores.
    """

    has_train_fraction = True

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        super().__init__(cfg, spec, training)
        _require_type(spec, "detection")
        self.label_map = LabelMap.from_file(spec.label_map)
        excluded = read_excluded_keyframes(spec.excluded) if spec.excluded else None
        self.finds_persons = not training and uses_model_persons(cfg)
        if self.finds_persons:
            self.keyframes = self._read_keyframes(excluded)
        else:
            self.keyframes = self._read_annotations(excluded) if training else self._read_persons(excluded)
        self.files = resolve_video_ids(self.keyframes.videos, spec.videos)
        self.starts = np.array([spec.start_of(str(video)) for video in self.keyframes.videos])
        self.cache = ClipCache(cfg.DATALOADER.CACHE_MB if training else 0)
        video, timestamp, _, _ = self.keyframes[0]
        name = str(self.keyframes.videos[video])
        logger.info("%s: %s", spec.name, describe_keyframe(name, timestamp, self.starts[video]))

    def use_classes(self, classes: ModelClasses) -> None:
        """Match labels and scores with the model's classes (see `ClipDataset.use_classes`)."""
        number, expected = num_classes(self.cfg, "ROI_HEAD"), len(classes.label_map)
        if number != expected:
            raise ConfigError(
                f"MODEL.ROI_HEAD.NUM_CLASSES: {number}, but {classes.source} has {expected} classes: "
                f"set it to {expected}"
            )
        super().use_classes(classes)
        if self.training and len(self.columns) < len(classes.label_map):
            logger.warning(
                "%s: has %d of the %d classes of %s; the others are labeled as absent",
                self.spec.label_map,
                len(self.columns),
                len(classes.label_map),
                classes.source,
            )

    def _read_annotations(self, excluded: Any) -> KeyframeBoxes:
        node = self.cfg.DATASETS
        rows = read_action_csv(self.spec.annotations, self.label_map)
        if node.NEGATIVE_PERSONS != "none":
            if self.spec.person_boxes is None:
                raise ConfigError(
                    f"DATASETS.NEGATIVE_PERSONS: {node.NEGATIVE_PERSONS}, but {self.spec.name} has no "
                    "person_boxes; vmae-det detect-persons writes them"
                )
            persons = read_person_boxes(self.spec.person_boxes)
            rows = add_negative_persons(rows, persons, node.NEGATIVE_PERSONS, node.NEGATIVE_PERSON_SCORE)
        if self.reads_fraction:
            chosen = self.choose_videos(np.zeros(len(rows.videos), dtype=np.int64))
            rows = rows.select(np.isin(rows.video, chosen))
        columns = self.label_map.columns(rows.action)  # -1 for negatives
        keyframes = group_by_keyframe(rows, columns, excluded)
        if not (keyframes.values >= 0).any():
            raise DataError("no keyframe with an annotated person is left", self.spec.annotations)
        return keyframes

    @property
    def num_negatives(self) -> int:
        """Number of training boxes with all labels 0 (DATASETS.NEGATIVE_PERSONS)."""
        return int((self.keyframes.values < 0).sum()) if self.training else 0

    def _read_keyframes(self, excluded: Any) -> KeyframeBoxes:
        keyframes = keyframes_without_boxes(read_action_csv(self.spec.annotations), excluded)
        if not len(keyframes):
            raise DataError("no keyframe is left", self.spec.annotations)
        return keyframes

    def _read_persons(self, excluded: Any) -> KeyframeBoxes:
        threshold = self.cfg.TEST.PERSON_BOX_SCORE
        if self.spec.person_boxes is None:
            raise DataError(
                "person_boxes: missing; testing a detector requires the boxes of detected persons, or a "
                "model with a person head (MODEL.PERSON_HEAD) and TEST.PERSON_BOXES auto",
                self.spec.name,
            )
        rows = read_person_boxes(self.spec.person_boxes)
        rows = rows.select(rows.score >= threshold)
        keyframes = group_by_keyframe(rows, rows.score, excluded)
        if not len(keyframes):
            raise ConfigError(
                f"TEST.PERSON_BOX_SCORE: {threshold}, but all person boxes of {self.spec.person_boxes} have "
                "lower scores"
            )
        return keyframes

    def class_counts(self, number: int) -> np.ndarray:
        """Return the number of annotated boxes of each class."""
        columns = self.keyframes.values[self.keyframes.values >= 0]
        return np.bincount(columns if self.columns is None else self.columns[columns], minlength=number)

    def __len__(self) -> int:
        return len(self.keyframes)

    def path_of(self, index: int) -> Path:
        """Return the video of a keyframe."""
        return self.files[self.keyframes.video[index]]

    def _load_clip(self, index: int) -> tuple[Clip, np.ndarray]:
        """Return the clip around a keyframe and the values of its boxes."""
        _, _, boxes, values = self.keyframes[index]
        return make_clip(self.cache.get(index, lambda: self._decode(index)), boxes), values

    def _decode(self, index: int) -> np.ndarray:
        video, timestamp, _, _ = self.keyframes[index]
        reader = self.open(self.files.location(video))
        try:
            keyframe = reader.index_at(timestamp - self.starts[video])
        except TimeOutsideVideoError as error:
            problem = f"keyframe {timestamp:g} (video_start is {self.starts[video]:g}): {error}"
            raise TimeOutsideVideoError(problem, self.spec.name) from None
        return reader.frames(sample_keyframe_clip(self.cfg.INPUT, keyframe, len(reader)))

    def load(self, index: int, rng: np.random.Generator) -> tuple[Clip, Sample]:
        """Return the clip around an annotated keyframe, with one box per person."""
        clip, columns = self._load_clip(index)
        boxes, person = np.unique(clip.boxes.numpy(), axis=0, return_inverse=True)
        labels = torch.zeros(len(boxes), self.cfg.MODEL.ROI_HEAD.NUM_CLASSES)
        person, columns = person.reshape(-1)[columns >= 0], columns[columns >= 0]
        labels[person, columns if self.columns is None else self.columns[columns]] = 1
        return Clip(clip.frames, torch.from_numpy(boxes)), {"labels": labels}

    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """Return the uncropped clip around a keyframe with detected persons."""
        clip, scores = self._load_clip(index)
        video, timestamp, boxes, _ = self.keyframes[index]
        sides = transforms.detection_short_sides(self.cfg)
        (first, first_size), *others = [self._view(clip, side) for side in sides]
        views = [
            {"video": transforms.to_video(view), **self._boxes_of(view), "size": size}
            for view, size in others
        ]
        persons = {
            "person_scores": torch.as_tensor(scores, dtype=torch.float32),
            "boxes_relative": boxes.astype(np.float32),
        }
        return first, {
            **({"views": views} if views else {}),
            "size": first_size,
            **({} if self.finds_persons else persons),
            "video_name": str(self.keyframes.videos[video]),
            "timestamp": timestamp,
        }

    def _boxes_of(self, clip: Clip) -> Sample:
        return {} if self.finds_persons else {"boxes": clip.boxes}

    def _view(self, clip: Clip, side: int) -> tuple[Clip, torch.Tensor]:
        """Return a test clip at a short side, and its width and height without padding."""
        height, width = transforms.resized_size(*clip.size, side, transforms.pixel_rounding(self.cfg.INPUT))
        size = torch.tensor([width, height], dtype=torch.float32)
        return transforms.full_frame_transform(clip, self.cfg, side), size

    def needed_short_side(self) -> int:
        """Return the short side in pixels up to which frames must be decoded."""
        return (
            super().needed_short_side() if self.training else max(transforms.detection_short_sides(self.cfg))
        )

    def finish(self, clip: Clip, extra: Sample) -> Sample:
        """Add the transformed boxes. In training, boxes outside the crop are dropped."""
        if not self.training:
            return extra | self._boxes_of(clip)
        inside = (clip.boxes[:, 2:] - clip.boxes[:, :2] >= 1).all(dim=1)
        return {
            "boxes": clip.boxes[inside],
            "labels": extra["labels"][inside],
            "complete_persons": self.spec.complete_persons,
        }


def _require_type(spec: DatasetSpec, kind: str) -> None:
    if spec.type != kind:
        raise ConfigError(
            f"DATASETS: '{spec.name}' is of type '{spec.type}', but this model requires type '{kind}'"
        )
