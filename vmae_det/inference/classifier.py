"""`ActionClassifier`: classifies whole videos, or a sliding window over a video or a live stream."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.data import transforms
from vmae_det.data.transforms import Clip, make_clip
from vmae_det.formats.label_map import LabelMap, suggest_label_map
from vmae_det.inference.keyframe_clips import KeyframeClip, plan_keyframes
from vmae_det.inference.person_sources import WholeFramePerson
from vmae_det.inference.predictor import adapt_to_inference, find_label_map
from vmae_det.inference.scorers import Scorer, check_architecture, load_scorer
from vmae_det.inference.stream import ActionStream, ClipWithPersons, StreamOptions
from vmae_det.inference.tracking import Tracker
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.readers import VideoReader, open_video
from vmae_det.video.sampling import sample_test_clip
from vmae_det.video.sources import VideoSource, is_endless, open_source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoClasses:
    """The classes of a video.

    Attributes:
        video: the video, as passed to the classifier.
        scores: (classes,), in the order of the label map; they sum to 1.
        label_map: the classes.
    """

    video: str
    scores: np.ndarray
    label_map: LabelMap

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return name and score of the best classes, best first."""
        best = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.label_map.names[column], float(self.scores[column])) for column in best]


class ActionClassifier:
    """Classifies videos.

    Args:
        cfg: config of a VideoClassifier; MODEL.WEIGHTS names its weights: a checkpoint, a folder of Hugging
            Face, a published model or an exported classifier.
        label_map: label map of the classes, if none is stored with the weights. If one is, this one may
            assign other ids to the same names. Without any, the classes are numbered (`LabelMap.numbered`).

    Attributes:
        label_map: the classes, in the order of the scores.

    Raises:
        ConfigError: the config describes another model, or the label map does not fit it.
        WeightsError: the weights cannot be read.
    """

    def __init__(self, cfg: CfgNode, label_map: LabelMap | None = None) -> None:
        check_architecture(cfg, "VideoClassifier")
        self.cfg = cfg = cfg.clone()
        adapt_to_inference(cfg)
        cfg.TEST.SHORT_SIDES = ()  # the views are crops
        self.label_map = _label_map(cfg, label_map)
        self.scorer = load_scorer(cfg, "VideoClassifier")

    def __call__(self, video: str | Path) -> VideoClasses:
        """Classify a whole video by its TEST.NUM_CLIPS x TEST.NUM_CROPS views, as `vmae-det test` does.

        Args:
            video: a file, a folder or pattern of frames, or an http(s) URL of a video file.

        Raises:
            DataError: the video cannot be read, or it has no end.
        """
        views, total = self._views(self._open(str(video))), 0.0
        size, number = self.cfg.TEST.BATCH_SIZE, self.cfg.TEST.NUM_CLIPS * self.cfg.TEST.NUM_CROPS
        for start in range(0, number, size):
            batch = [next(views) for _ in range(min(size, number - start))]
            total = total + sum(scores[0].astype(np.float64) for scores in self._score_views(batch))
        return VideoClasses(str(video), total / number, self.label_map)

    def stream(
        self, video: str | Path | VideoSource, *, every: float = 1.0, options: StreamOptions | None = None
    ) -> ActionStream:
        """Classify the clip around every `every` seconds; also for live sources.

        A result has one row of scores, and its box is the whole frame. The clip has INPUT.NUM_FRAMES frames,
        INPUT.SAMPLING_RATE apart. Its scores are averaged over TEST.NUM_CROPS crops.

        Args:
            video: a file, a folder of frames, a URL, a camera, or an open source.

        Raises:
            DataError: the video cannot be read; also while the stream runs.
        """
        options = options or StreamOptions()
        source = video if isinstance(video, VideoSource) else open_source(video, self.cfg.DATALOADER.READER)
        plan = plan_keyframes(source, self.cfg, None, every, options.start, options.end)
        return ActionStream(
            source,
            plan,
            WholeFramePerson(),
            lambda clips: self._score_clips(clips, options.stopwatch),
            self.cfg,
            options,
            Tracker(max_age=math.inf),  # all results are of the whole frame, however far apart they are
        )

    def with_scorer(self, scorer: Scorer | None) -> ActionClassifier:
        """Return this classifier with another scorer. See `ActionPredictor.with_scorer`."""
        other = copy.copy(self)
        other.scorer = scorer
        return other

    def warn_about_segments(self) -> None:
        """Log a warning if the model was trained on whole videos, unlike the clips of `stream`."""
        node = self.cfg.INPUT
        if node.SAMPLING != "dense":
            logger.warning(
                "INPUT.SAMPLING: %s, so %s was trained on frames from the whole video; each clip around a "
                "time has %d frames, %d apart (INPUT.SAMPLING_RATE)",
                node.SAMPLING,
                self.cfg.MODEL.WEIGHTS,
                node.NUM_FRAMES,
                node.SAMPLING_RATE,
            )

    def _open(self, video: str) -> VideoReader:
        if is_endless(video):
            raise DataError("a live stream has no end; classify it by --every SECONDS", video)
        node = self.cfg.DATALOADER
        side = transforms.needed_short_side(self.cfg, training=False) if node.DECODE_SMALLER else None
        return open_video(video, node.READER, short_side=side)

    def _views(self, reader: VideoReader) -> Iterator[torch.Tensor]:
        """Yield the views of a video, uint8 (3, T, H, W), those of `LabeledVideos.load_test`."""
        number = self.cfg.TEST.NUM_CLIPS
        for clip in range(number):
            frames = sample_test_clip(self.cfg.INPUT, len(reader), clip, number)
            yield from self._crops(make_clip(reader.frames(frames)))

    def _crops(self, clip: Clip) -> Iterator[torch.Tensor]:
        node, number = self.cfg.INPUT, self.cfg.TEST.NUM_CROPS
        clip = transforms.resize_short_side(clip, node.TEST_SHORT_SIDE, transforms.pixel_rounding(node))
        for crop in range(number):
            yield transforms.to_video(transforms.view_crop(clip, self.cfg, crop, number))

    def _score_views(self, views: Sequence[torch.Tensor]) -> list[np.ndarray]:
        return self.scorer({"video": torch.stack(list(views))})

    def _score_clips(self, clips: Sequence[ClipWithPersons], stopwatch: Stopwatch) -> list[np.ndarray]:
        """Return the scores (1, classes) of each clip of a stream."""
        with stopwatch.measure("batch"):
            views = [view for item in clips for view in self._crops(_without_padding(item.clip))]
        with stopwatch.measure("model"):
            scores = np.stack(self._score_views(views)).astype(np.float64)  # (clips x crops, 1, classes)
        return list(scores.reshape(len(clips), self.cfg.TEST.NUM_CROPS, -1).mean(axis=1, keepdims=True))


def _without_padding(clip: KeyframeClip) -> Clip:
    """Return the resized frames of a clip without the padding that detectors need."""
    height, width = (round(side * scale) for side, scale in zip(clip.size, clip.scale[::-1]))
    return Clip(clip.video[..., :height, :width].transpose(0, 1), torch.zeros(0, 4))


def _label_map(cfg: CfgNode, given: LabelMap | None) -> LabelMap:
    weights, number = cfg.MODEL.WEIGHTS, cfg.MODEL.CLASSIFIER.NUM_CLASSES
    label_map = find_label_map(weights, given)
    if label_map is None:
        logger.warning(
            "%s: contains no class names; the classes are numbered from 0; pass a --label-map%s",
            weights,
            suggest_label_map(number),
        )
        return LabelMap.numbered(number)
    if len(label_map) != number:
        raise ConfigError(
            f"MODEL.CLASSIFIER.NUM_CLASSES: {number}, but the label map has {len(label_map)} classes"
        )
    return label_map
