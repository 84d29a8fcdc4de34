"""`PersonFeatureExtractor`: RoI features of the persons at keyframes, with boxes and tracks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.config.checks import detects_with_person_head
from vmae_det.engine.trainer import AMP_TYPES, to_device
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.inference.features import REQUIRED, Columns, load_feature_model, open_finite_source, video_info
from vmae_det.inference.keyframe_clips import ClipWithPersons, KeyframeClip, plan_keyframes
from vmae_det.inference.person_detectors import build_person_detector
from vmae_det.inference.person_sources import BoxesFromFile, DetectedPersons, PersonsOfModel, PersonSource
from vmae_det.inference.predictor import adapt_to_inference
from vmae_det.inference.stream import (
    ActionStream,
    StreamOptions,
    collate_clips,
    collate_videos,
    to_keyframes,
)
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.transfer import copy_to_cpu
from vmae_det.video.sources import FileSource

BOX = ("x1", "y1", "x2", "y2")


class PersonFeatureExtractor:
    """Extracts the features that an ActionDetector pools in the box of each person, before its head's layers.

    Args:
        cfg: config of an ActionDetector; MODEL.WEIGHTS names its weights. The head's classifier is not used.
        persons: person boxes at keyframes, of which those below TEST.PERSON_BOX_SCORE are dropped; or a
            source of person boxes; None: those that the config's PERSON_DETECTOR finds, which may be the
            person head of the model.
        every: seconds between keyframes, if `persons` does not determine the keyframes.
        video_start: second on the boxes' clock at which the video starts.

    Raises:
        ConfigError: the config describes another model.
        WeightsError: the weights cannot be read.
    """

    def __init__(
        self,
        cfg: CfgNode,
        persons: PersonBoxes | PersonSource | None = None,
        *,
        every: float = 1.0,
        video_start: float = 0.0,
    ) -> None:
        if cfg.MODEL.META_ARCHITECTURE != "ActionDetector":
            raise ConfigError(
                "MODEL.META_ARCHITECTURE: features of persons need an ActionDetector, "
                f"got {cfg.MODEL.META_ARCHITECTURE}"
            )
        self.cfg = cfg = cfg.clone()
        adapt_to_inference(cfg)
        # Threads would fill larger batches differently in each run, and the features would not be bit-equal.
        cfg.TEST.BATCH_SIZE = 1
        cfg.TEST.SHORT_SIDES = ()  # features are those of one view
        self.every, self.video_start = every, video_start
        finds_persons = persons is None and detects_with_person_head(cfg)
        required = (*REQUIRED, "person_head.") if finds_persons else REQUIRED
        self.model, self.device = load_feature_model(cfg, required)
        if not hasattr(self.model.roi_head, "pool"):
            raise ConfigError(
                f"MODEL.ROI_HEAD.NAME: {type(self.model.roi_head).__name__} has no method `pool`, which "
                "returns the features of boxes"
            )
        self.width = getattr(self.model.roi_head, "feature_dim", self.model.backbone.embed_dim)
        self._amp = AMP_TYPES[cfg.SOLVER.AMP]
        if finds_persons:
            persons = PersonsOfModel(self._find)
        self._persons = persons if persons is not None else DetectedPersons(build_person_detector(cfg))

    def stream(self, video: str | Path) -> PersonFeatureStream:
        """Open a video. Iterate over the result to get the features of each keyframe.

        Raises:
            DataError: the video cannot be read, there are no boxes for it, or a keyframe is outside of it.
        """
        source, persons = open_finite_source(video, self.cfg, whole_frame=True), self._persons
        if isinstance(persons, PersonBoxes):
            persons = BoxesFromFile(persons, source.video_id, self.cfg.TEST.PERSON_BOX_SCORE)
        given = persons.keyframe_times()
        given = None if given is None else given - self.video_start
        plan = plan_keyframes(source, self.cfg, given, self.every)
        options = StreamOptions(self.video_start)
        stream = ActionStream(source, plan, persons, self.features, self.cfg, options)
        return PersonFeatureStream(stream, source, (self.width,))

    @torch.inference_mode()
    def _find(self, clips: Sequence[KeyframeClip]) -> list[ClipWithPersons]:
        """Return keyframe clips with the persons that the model finds, and their features as scores."""
        batch = to_device(collate_videos(clips), self.device)
        with torch.autocast(self.device.type, self._amp, enabled=self._amp is not None):
            found = self.model.find_person_features(batch)
        columns = [copy_to_cpu(found[name]) for name in ("boxes", "person_scores", "features")]
        return to_keyframes(clips, *([rows.float().numpy() for rows in column] for column in columns))

    @torch.inference_mode()
    def features(self, clips: Sequence[ClipWithPersons]) -> list[np.ndarray]:
        """Return the features (N, width), float32, of the persons of each keyframe clip."""
        features = [np.zeros((0, self.width), dtype=np.float32) for _ in clips]
        with_persons = [number for number, item in enumerate(clips) if len(item.boxes)]
        if not with_persons:
            return features
        batch = to_device(collate_clips([clips[number] for number in with_persons]), self.device)
        with torch.autocast(self.device.type, self._amp, enabled=self._amp is not None):
            pooled = self.model.person_features(batch)
        for number, rows in zip(with_persons, copy_to_cpu(pooled)):
            features[number] = rows.float().numpy()
        return features


@dataclass
class PersonFeatureStream:
    """The features of the persons of one video, a block of rows per keyframe, as a `FeatureStream`.

    The columns are `timestamp`, on the clock of the boxes; x1, y1, x2, y2 in [0, 1] of the frame;
    `person_score`; and `track`, the id of the person within the video.

    Raises:
        DataError: the video cannot be read to its end; raised while it runs.
    """

    stream: ActionStream
    source: FileSource
    row_shape: tuple[int, ...]
    progress: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.info |= video_info(self.source) | {"num_keyframes": len(self.stream.plan.times)}
        self.info |= {"damaged_frames": 0, "skipped_keyframes": 0}

    def __iter__(self) -> Iterator[tuple[np.ndarray, Columns]]:
        """Yield the features of the persons of each keyframe, and the columns of the rows."""
        with self.stream as stream:
            for result in stream:
                boxes = dict(zip(BOX, result.boxes.T))
                time = np.full(len(result.boxes), result.timestamp)
                scores = {"person_score": result.person_scores, "track": result.tracks}
                yield result.scores, {"timestamp": time, **boxes, **scores}
                self.progress = min(result.time / self.info["duration"], 1.0)
        if stream.truncated:
            raise DataError("cannot be read to its end; no features were written", self.source.name)
        self.info["damaged_frames"] = stream.damaged_frames
        self.info["skipped_keyframes"] = stream.skipped_keyframes
        self.progress = 1.0
