"""Clips of a dataset or of videos, on which an int8 export measures its loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data import transforms
from vmae_det.data.catalog import get_dataset
from vmae_det.data.classes import ModelClasses
from vmae_det.data.loader import build_dataset, collate
from vmae_det.evaluation.evaluators import EVALUATOR_REGISTRY, Evaluator
from vmae_det.modeling import model_class
from vmae_det.utils.errors import DataError
from vmae_det.video.discovery import VideoPaths, find_videos
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import sample_keyframe_clip, sample_training_clip

_DATASET_SUFFIXES = (".yaml", ".yml")


class CalibrationClips:
    """Random clips of one source, each as a batch of one clip. Iterating again returns the same clips.

    Args:
        cfg: config of a detector or classifier. SEED chooses the clips.
        source: a labeled dataset (name or dataset file), a folder of videos, or a video. In videos without
            labels the whole frame is the person of a detector.
        count: number of clips. A dataset may have fewer.
        classes: classes of the model; None if they have no names.

    Attributes:
        evaluator: computes the metrics on the clips; None without labels.

    Raises:
        ConfigError: there is no such dataset, or it is not for the task of the model.
        DataError: the source has no clips, or cannot be read.
    """

    def __init__(self, cfg: CfgNode, source: str, count: int, classes: ModelClasses | None = None) -> None:
        self.cfg = cfg = cfg.clone()
        cfg.defrost()
        cfg.TEST.SHORT_SIDES, cfg.TEST.PERSON_BOXES = (), "dataset"
        self.evaluator: Evaluator | None = None
        task = model_class(cfg).task
        self._is_detector = task == "detection"
        path = Path(source)
        is_video = path.is_file() and path.suffix not in _DATASET_SUFFIXES
        spec = None if is_video else get_dataset(source, cfg.DATASETS.ROOT, "--calibrate")
        if spec is None or spec.type == "videos":
            self._videos: VideoPaths | None = find_videos(path if spec is None else spec.videos)
            self._indices = np.arange(count)
        else:
            self._videos = None
            self._dataset = build_dataset(cfg, task, source, training=False, classes=classes)
            size = len(self._dataset)
            if not size:
                raise DataError("has no clips to calibrate with", spec.name)
            chosen = np.random.default_rng(cfg.SEED).choice(size, min(count, size), replace=False)
            self._indices = np.sort(chosen)
            self.evaluator = EVALUATOR_REGISTRY.get(task)(cfg, spec)
            self.evaluator.columns = self._dataset.columns
            self.evaluator.only_processed = True

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in self._indices:
            if self._videos is None:
                samples = self._dataset[0, int(index)]
            else:
                samples = [self._video_sample(np.random.default_rng((self.cfg.SEED, int(index))))]
            yield collate([samples])

    def _video_sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return a random clip of a random video."""
        node = self.cfg.INPUT
        location = self._videos.location(int(rng.integers(len(self._videos))))
        reader = open_video(location, self.cfg.DATALOADER.READER)
        if not self._is_detector:
            frames = sample_training_clip(node, len(reader), rng)
            clip = transforms.make_clip(reader.frames(frames))
            return {"video": transforms.to_video(transforms.view_crop(clip, self.cfg))}
        frames = sample_keyframe_clip(node, int(rng.integers(len(reader))), len(reader))
        clip = transforms.make_clip(reader.frames(frames), np.array([[0.0, 0.0, 1.0, 1.0]]))
        rounding = transforms.pixel_rounding(node)
        height, width = transforms.resized_size(*clip.size, node.TEST_SHORT_SIDE, rounding)
        view = transforms.full_frame_transform(clip, self.cfg)
        return {
            "video": transforms.to_video(view),
            "boxes": view.boxes,
            "person_scores": torch.ones(1),
            "size": torch.tensor([width, height], dtype=torch.float32),
        }
