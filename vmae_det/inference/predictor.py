"""From a video and its people to what they do: the model behind one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vmae_det.config import CfgNode, get_cfg
from vmae_det.data import transforms
from vmae_det.data.annotations import ActionBoxes, LabelMap
from vmae_det.data.keyframes import group_by_keyframe
from vmae_det.data.person_boxes import PersonBoxes
from vmae_det.data.readers import VideoReader, open_video
from vmae_det.data.sampling import keyframe_clip
from vmae_det.inference.backends import load_scorer, read_extras
from vmae_det.utils.errors import ConfigError, DataError, WeightsError


@dataclass(frozen=True)
class ActionDetections:
    """What the people of a video do at its keyframes; R rows, a row for each person and keyframe.

    Args:
        video: the file.
        video_start: second of the clock of `timestamp` at which the file starts.
        timestamp: seconds, (R,), ascending.
        boxes: xyxy in [0, 1] of the frame, (R, 4).
        person_scores: of the person detector, (R,).
        scores: (R, classes), columns in the order of the label map.
    """

    video: Path
    video_start: float
    timestamp: np.ndarray
    boxes: np.ndarray
    person_scores: np.ndarray
    scores: np.ndarray
    label_map: LabelMap

    def __len__(self) -> int:
        return len(self.timestamp)

    def to_rows(self) -> ActionBoxes:
        """The same as rows of AVA's CSV, one for each person, keyframe and action."""
        video = np.zeros(len(self), dtype=np.int32)
        names = np.array([self.video.stem], dtype=object)
        return ActionBoxes.from_scores(names, video, self.timestamp, self.boxes, self.scores, self.label_map)

    def to_json(self, threshold: float = 0.0) -> dict[str, Any]:
        """The same as plain data; actions by falling score, those that reach the threshold."""
        people = []
        for timestamp, box, person_score, scores in zip(
            self.timestamp.tolist(), self.boxes.tolist(), self.person_scores.tolist(), self.scores
        ):
            actions = [
                {
                    "id": self.label_map.ids[column],
                    "name": self.label_map.names[column],
                    "score": round(float(scores[column]), 6),
                }
                for column in np.argsort(-scores, kind="stable")
                if scores[column] >= threshold
            ]
            box = [round(value, 4) for value in box]
            people.append(
                {
                    "timestamp": timestamp,
                    "box": box,
                    "person_score": round(person_score, 4),
                    "actions": actions,
                }
            )
        return {"video": self.video.name, "video_start": self.video_start, "people": people}


class ActionPredictor:
    """Scores the actions of given persons in a video.

    Args:
        cfg: of an ActionDetector; MODEL.WEIGHTS names its weights.
        label_map: of the classes; None takes the one that travels with the weights.
    """

    def __init__(self, cfg: CfgNode, label_map: LabelMap | None = None) -> None:
        if cfg.MODEL.META_ARCHITECTURE != "ActionDetector":
            raise ConfigError(
                "MODEL.META_ARCHITECTURE: detection needs an ActionDetector, "
                f"got {cfg.MODEL.META_ARCHITECTURE}"
            )
        self.cfg = cfg
        self.label_map = label_map or read_label_map(cfg.MODEL.WEIGHTS)
        if len(self.label_map) != cfg.MODEL.ROI_HEAD.NUM_CLASSES:
            raise ConfigError(
                f"MODEL.ROI_HEAD.NUM_CLASSES: {cfg.MODEL.ROI_HEAD.NUM_CLASSES}, but the label map has "
                f"{len(self.label_map)} classes"
            )
        self.scorer = load_scorer(cfg)

    def __call__(
        self, video: str | Path, persons: PersonBoxes, video_start: float = 0.0, progress: bool = False
    ) -> ActionDetections:
        """Actions of the persons given for this video, which goes by the file's name without suffix.

        Args:
            persons: boxes at keyframes; those below TEST.PERSON_BOX_SCORE are left out.
            video_start: second of the boxes' clock at which the file starts.

        Raises:
            DataError: the video cannot be read, there are no boxes for it, or a keyframe lies outside it.
        """
        path = Path(video)
        reader = open_video(path, self.cfg.DATALOADER.READER)
        threshold = self.cfg.TEST.PERSON_BOX_SCORE
        own = np.array([str(name) == path.stem for name in persons.videos], dtype=bool)
        if not own.any():
            known = ", ".join(str(name) for name in persons.videos[:5])
            raise DataError(f"no person boxes for the video '{path.stem}'; they are for: {known}", path)
        rows = persons.select(own[persons.video] & (persons.score >= threshold))
        if not len(rows):
            raise ConfigError(
                f"TEST.PERSON_BOX_SCORE: {threshold}, but no person box of {path.stem} reaches it"
            )
        keyframes = group_by_keyframe(rows, rows.score)
        scores = []
        step = self.cfg.TEST.BATCH_SIZE
        # All keyframes are looked up before the first is scored: a wrong clock shows at once.
        frames = [reader.index_at(timestamp - video_start) for timestamp in keyframes.timestamp]
        with tqdm(
            total=len(keyframes), desc="scoring", unit="keyframe", disable=None if progress else True
        ) as bar:
            for first in range(0, len(keyframes), step):
                numbers = range(first, min(first + step, len(keyframes)))
                scores += self._score(reader, [(frames[k], *keyframes[k][2:]) for k in numbers])
                bar.update(len(numbers))
        counts = np.diff(keyframes.starts)
        return ActionDetections(
            video=path,
            video_start=video_start,
            timestamp=np.repeat(keyframes.timestamp, counts),
            boxes=keyframes.boxes,
            person_scores=keyframes.values,
            scores=np.concatenate(scores),
            label_map=self.label_map,
        )

    def _score(
        self, reader: VideoReader, keyframes: list[tuple[int, np.ndarray, np.ndarray]]
    ) -> list[np.ndarray]:
        node = self.cfg.INPUT
        clips = []
        for frame, boxes, _ in keyframes:
            indices = keyframe_clip(frame, len(reader), node.NUM_FRAMES, node.SAMPLING_RATE)
            clips.append(
                transforms.whole_frame(transforms.make_clip(reader.frames(indices), boxes), self.cfg)
            )
        batch = {
            "video": torch.stack([transforms.to_video(clip) for clip in clips]),
            "boxes": [clip.boxes for clip in clips],
            "person_scores": [torch.as_tensor(scores, dtype=torch.float32) for *_, scores in keyframes],
        }
        return self.scorer(batch)


def whole_frame(video: str | Path, video_start: float = 0.0) -> PersonBoxes:
    """A box around the whole frame, of score 1, at each second of a video; DataError if it is unreadable.

    Args:
        video_start: second of the boxes' clock at which the file starts.
    """
    path = Path(video)
    timestamp = video_start + np.arange(int(open_video(path).times[-1]) + 1, dtype=np.float64)
    return PersonBoxes(
        videos=np.array([path.stem], dtype=object),
        video=np.zeros(len(timestamp), dtype=np.int32),
        timestamp=timestamp,
        boxes=np.tile([0.0, 0.0, 1.0, 1.0], (len(timestamp), 1)),
        score=np.ones(len(timestamp)),
    )


def read_config(weights: str | Path) -> CfgNode:
    """The config that travels with weights or an exported model; MODEL.WEIGHTS names the file.

    Raises:
        WeightsError: there is none in the file.
    """
    text = read_extras(weights).get("config")
    if not isinstance(text, str):
        raise WeightsError(f"{weights}: holds no config; give the one it was made with by --config-file")
    cfg = get_cfg()
    cfg.merge_from_text(text, str(weights))
    cfg.MODEL.WEIGHTS = str(weights)
    return cfg


def read_label_map(weights: str | Path) -> LabelMap:
    """The label map that travels with weights or an exported model; WeightsError if there is none."""
    content = read_extras(weights).get("label_map")
    if not isinstance(content, dict):
        raise WeightsError(f"{weights}: holds no label map; give one by --label-map")
    return LabelMap(**{key: tuple(value) for key, value in content.items()})
