"""One dataset class per task: from a DatasetSpec to samples.

A dataset is asked for (epoch, index), so that what it draws at random follows from the seed, the epoch
and the
index alone. It answers with a list of samples: training may cut several from one decoded clip.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data import transforms
from vmae_det.data.augmentation import ClipAugmentation
from vmae_det.data.catalog import DatasetSpec
from vmae_det.data.classes import ModelClasses
from vmae_det.data.transforms import Clip, make_clip
from vmae_det.formats.ava_csv import LabelMap, read_action_csv, read_excluded_keyframes
from vmae_det.formats.keyframes import KeyframeBoxes, group_by_keyframe
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

DATASET_REGISTRY = Registry("DATASET")  # by the task of the model

Sample = dict[str, Any]


class ClipDataset(torch.utils.data.Dataset, ABC):
    """What the datasets of all tasks share: decoding, augmentation, and random numbers by epoch and index.

    A sample holds `video` uint8 (3, T, H, W), `seed` (int64, for what the model draws at random), `index`
    (of the clip in the dataset), and what the task adds.
    """

    files: VideoPaths
    label_map: LabelMap | None = None  # of the dataset's classes; None: it has none, or without names
    columns: np.ndarray | None = None  # the model's output for each of them; None: their own order

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        self.cfg = cfg
        self.spec = spec
        self.training = training

    def use_classes(self, classes: ModelClasses) -> None:
        """Label samples for a model with these classes, by their names.

        Raises:
            ConfigError: the dataset has a class that the model lacks.
        """
        if self.label_map is not None:
            self.columns = classes.columns_of(self.label_map, str(self.spec.label_map))

    @abstractmethod
    def __len__(self) -> int:
        """Number of clips that an epoch takes."""

    @property
    def num_files(self) -> int:
        """Number of video files."""
        return len(self.files)

    @abstractmethod
    def path_of(self, index: int) -> Path:
        """The video that a sample is cut from."""

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator) -> tuple[Clip, Sample]:
        """A decoded training clip and what the task adds to its samples."""

    @abstractmethod
    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """A test clip, transformed, and what the task adds to its sample."""

    def transform(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """A training clip as the model takes it, of a decoded one."""
        return transforms.train_transform(clip, self.cfg, rng)

    def finish(self, clip: Clip, extra: Sample) -> Sample:
        """What the task adds to a sample, after the clip was transformed."""
        return extra

    def __getitem__(self, key: tuple[int, int]) -> list[Sample]:
        epoch, index = key
        entropy = (self.cfg.SEED, epoch, index)
        if not self.training:
            clip, extra = self.load_test(index)
            return [self._sample(clip, extra, index, entropy)]
        clip, extra = self.load(index, np.random.default_rng(entropy))
        samples = []
        for copy in range(self.cfg.DATALOADER.REPEATED_AUG):
            rng = np.random.default_rng((*entropy, copy))
            cut = self.transform(clip, rng)
            samples.append(self._sample(cut, extra, index, (*entropy, copy)))
        return samples

    def _sample(self, clip: Clip, extra: Sample, index: int, entropy: tuple[int, ...]) -> Sample:
        seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64).astype(np.int64)[0]
        sample = {"video": transforms.to_video(clip), "seed": int(seed), "index": index}
        if self.training:
            sample["path"] = str(self.path_of(index))
        return sample | self.finish(clip, extra)

    def open(self, video: Path | VideoLocation) -> VideoReader:
        """A video, ready to be decoded at the size that is needed of it."""
        node = self.cfg.DATALOADER
        side = transforms.needed_short_side(self.cfg, self.training) if node.DECODE_SMALLER else None
        return open_video(video, node.READER, short_side=side)


@DATASET_REGISTRY.register_as("pretraining")
class UnlabeledVideos(ClipDataset):
    """Clips from the videos of a dataset of any type; labels are not looked at.

    In training an epoch takes CLIPS_PER_VIDEO clips from each video, in testing the one in its middle. Where
    MODEL.RECONSTRUCTION asks for other frames than the clip's own, a sample holds them as `target`, uint8
    (3, T', H, W), transformed as the video is.
    """

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        super().__init__(cfg, spec, training)
        if spec.type == "classification":
            self.files, _ = spec.labeled_videos()
        elif spec.type != "detection":
            self.files = find_videos(spec.videos)
        else:
            annotations = read_action_csv(spec.annotations, unknown_actions="ignore")
            self.files = resolve_video_ids(annotations.videos, spec.videos)
        own, wanted = cfg.INPUT, cfg.MODEL.RECONSTRUCTION
        self.own = own.NUM_FRAMES, own.SAMPLING_RATE
        self.target = wanted.NUM_FRAMES or own.NUM_FRAMES, wanted.SAMPLING_RATE or own.SAMPLING_RATE

    def __len__(self) -> int:
        return len(self.files) * (self.cfg.DATALOADER.CLIPS_PER_VIDEO if self.training else 1)

    def path_of(self, index: int) -> Path:
        """The video of a clip."""
        return self.files[index % len(self.files)]

    def load(self, index: int, rng: np.random.Generator) -> tuple[Clip, Sample]:
        """A random clip."""
        reader = self.open(self.files.location(index % len(self.files)))
        return self._decode(reader, random_clip(len(reader), *self.own, rng))

    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """The centre of the clip in the middle of the video."""
        reader = self.open(self.files.location(index))
        clip, extra = self._decode(reader, evenly_spaced_clip(len(reader), *self.own, 0, 1))
        return transforms.view_crop(clip, self.cfg), extra

    def _decode(self, reader: VideoReader, video: np.ndarray) -> tuple[Clip, Sample]:
        """The frames of a clip, or with a target the frames of both, each once, and their `places` there."""
        if self.target == self.own:
            return make_clip(reader.frames(video)), {}
        target = target_clip(video, self.own[1], len(reader), *self.target)
        frames, places = np.unique(np.concatenate([video, target]), return_inverse=True)
        return make_clip(reader.frames(frames)), {"places": np.split(places, [len(video)])}

    def finish(self, clip: Clip, extra: Sample) -> Sample:
        """`video` and `target`, where there is one, of the frames of both."""
        parts = zip(("video", "target"), extra.get("places", ()))
        return {name: transforms.to_video(Clip(clip.frames[places], clip.boxes)) for name, places in parts}


@DATASET_REGISTRY.register_as("classification")
class LabeledVideos(ClipDataset):
    """Videos with a class each: `label`; in testing `video_index`, as a video has several views."""

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        super().__init__(cfg, spec, training)
        self.files, self.labels = self.read_videos()
        if spec.label_map is not None:
            self.label_map = LabelMap.from_file(spec.label_map)
        num_classes = cfg.MODEL.CLASSIFIER.NUM_CLASSES
        if self.labels.max() >= num_classes:
            where = spec.annotations or spec.videos
            raise ConfigError(
                f"MODEL.CLASSIFIER.NUM_CLASSES: {num_classes}, but {where} has a label "
                f"{self.labels.max()}: set it to {self.labels.max() + 1} or more"
            )
        if self.label_map and self.labels.max() >= len(self.label_map):
            raise DataError(
                f"has a label {self.labels.max()}, but {spec.label_map} has {len(self.label_map)} entries, "
                "which labels count from 0",
                str(spec.annotations or spec.videos),
            )
        self.views = cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS
        self.augment = ClipAugmentation(cfg)

    def read_videos(self) -> tuple[VideoPaths, np.ndarray]:
        """Return the videos and their class indices, int64 (n,). Override it for labels in another form."""
        _require_type(self.spec, "classification")
        return self.spec.labeled_videos()

    def use_classes(self, classes: ModelClasses) -> None:
        """The labels become columns of the model's outputs."""
        super().use_classes(classes)
        if self.columns is not None:
            self.labels = self.columns[self.labels]
        else:
            logger.warning(
                "%s: names no classes: its labels are taken for those of %s in their order",
                self.spec.name,
                classes.source,
            )

    def __len__(self) -> int:
        return len(self.files) * (1 if self.training else self.views)

    def path_of(self, index: int) -> Path:
        """The video of a clip, or in testing of a view."""
        return self.files[index if self.training else index // self.views]

    def load(self, index: int, rng: np.random.Generator) -> tuple[Clip, Sample]:
        """A random clip, or a random frame of each segment, as INPUT.SAMPLING says."""
        reader = self.open(self.files.location(index))
        frames = sample_training_clip(self.cfg.INPUT, len(reader), rng)
        return make_clip(reader.frames(frames)), {"label": int(self.labels[index])}

    def transform(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Crop, flip and colours, and what is for classification alone."""
        return self.augment(clip, rng, super().transform)

    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """One view of a video."""
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
    """Keyframes with people.

    Training: the annotated `boxes` (N, 4) in pixels with `labels` (N, classes), multi-hot. Testing: detected
    persons, `boxes` with `person_scores` (N,), and to write the result down `boxes_relative` (N, 4) in
    [0, 1],
    `video_name` and `timestamp`. Keyframes without a person, and excluded ones, do not occur.
    """

    def __init__(self, cfg: CfgNode, spec: DatasetSpec, training: bool) -> None:
        super().__init__(cfg, spec, training)
        _require_type(spec, "detection")
        self.label_map = LabelMap.from_file(spec.label_map)
        excluded = read_excluded_keyframes(spec.excluded) if spec.excluded else None
        self.keyframes = self._annotated(excluded) if training else self._detected(excluded)
        self.files = resolve_video_ids(self.keyframes.videos, spec.videos)
        self.starts = np.array([spec.start_of(str(video)) for video in self.keyframes.videos])
        self.cache = ClipCache(cfg.DATALOADER.CACHE_MB if training else 0)
        video, timestamp, _, _ = self.keyframes[0]
        name = str(self.keyframes.videos[video])
        logger.info("%s: %s", spec.name, describe_keyframe(name, timestamp, self.starts[video]))

    def use_classes(self, classes: ModelClasses) -> None:
        """Labels and scores are found by name among the model's classes."""
        number, found = self.cfg.MODEL.ROI_HEAD.NUM_CLASSES, len(classes.label_map)
        if number != found:
            raise ConfigError(
                f"MODEL.ROI_HEAD.NUM_CLASSES: {number}, but {classes.source} has {found} classes: set it to "
                f"{found}"
            )
        super().use_classes(classes)
        if self.training and len(self.columns) < len(classes.label_map):
            logger.warning(
                "%s: has %d of the %d classes of %s: its people count as not doing the others",
                self.spec.label_map,
                len(self.columns),
                len(classes.label_map),
                classes.source,
            )

    def _annotated(self, excluded: Any) -> KeyframeBoxes:
        rows = read_action_csv(self.spec.annotations, self.label_map)
        columns = self.label_map.columns(rows.action)
        keyframes = group_by_keyframe(rows, columns, excluded)
        if not len(keyframes):
            raise DataError("no keyframe with an annotated person is left", self.spec.annotations)
        return keyframes

    def _detected(self, excluded: Any) -> KeyframeBoxes:
        threshold = self.cfg.TEST.PERSON_BOX_SCORE
        if self.spec.person_boxes is None:
            raise DataError(
                "person_boxes: missing; testing a detector needs the boxes of detected persons",
                self.spec.name,
            )
        rows = read_person_boxes(self.spec.person_boxes)
        rows = rows.select(rows.score >= threshold)
        keyframes = group_by_keyframe(rows, rows.score, excluded)
        if not len(keyframes):
            raise ConfigError(
                f"TEST.PERSON_BOX_SCORE: {threshold}, which no person box of {self.spec.person_boxes} reaches"
            )
        return keyframes

    def __len__(self) -> int:
        return len(self.keyframes)

    def path_of(self, index: int) -> Path:
        """The video of a keyframe."""
        return self.files[self.keyframes.video[index]]

    def _read(self, index: int) -> tuple[Clip, np.ndarray]:
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
        """The clip around an annotated keyframe, each person once."""
        clip, columns = self._read(index)
        boxes, person = np.unique(clip.boxes.numpy(), axis=0, return_inverse=True)
        labels = torch.zeros(len(boxes), self.cfg.MODEL.ROI_HEAD.NUM_CLASSES)
        labels[person.reshape(-1), columns if self.columns is None else self.columns[columns]] = 1
        return Clip(clip.frames, torch.from_numpy(boxes)), {"labels": labels}

    def load_test(self, index: int) -> tuple[Clip, Sample]:
        """The whole frame around a keyframe with detected persons."""
        clip, scores = self._read(index)
        video, timestamp, boxes, _ = self.keyframes[index]
        height, width = transforms.resized_size(*clip.size, self.cfg.INPUT.TEST_SHORT_SIDE)
        return transforms.full_frame_transform(clip, self.cfg), {
            "size": torch.tensor([width, height], dtype=torch.float32),
            "person_scores": torch.as_tensor(scores, dtype=torch.float32),
            "boxes_relative": boxes.astype(np.float32),
            "video_name": str(self.keyframes.videos[video]),
            "timestamp": timestamp,
        }

    def finish(self, clip: Clip, extra: Sample) -> Sample:
        """Boxes as they are after the transforms; of training boxes, those that are still in the clip."""
        if not self.training:
            return extra | {"boxes": clip.boxes}
        inside = (clip.boxes[:, 2:] - clip.boxes[:, :2] >= 1).all(dim=1)
        return {"boxes": clip.boxes[inside], "labels": extra["labels"][inside]}


def _require_type(spec: DatasetSpec, kind: str) -> None:
    if spec.type != kind:
        raise ConfigError(f"DATASETS: '{spec.name}' is of type '{spec.type}', this model needs type '{kind}'")


class ClipCache:
    """Keeps decoded frames until it is full; what comes later is decoded each time.

    Args:
        megabytes: of each loader process; 0 keeps nothing.
    """

    def __init__(self, megabytes: int) -> None:
        self.free = megabytes * 2**20
        self._clips: dict[Hashable, np.ndarray] = {}

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The frames under `key`, decoded if they are not there; they are shared and not to be changed."""
        frames = self._clips.get(key)
        if frames is None:
            frames = decode()
            if frames.nbytes <= self.free:
                self.free -= frames.nbytes
                self._clips[key] = frames
        return frames
