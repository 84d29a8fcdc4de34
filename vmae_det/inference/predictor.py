"""From a video and its people to what they do: the model behind one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vmae_det.checkpoint.stored_config import stored_config
from vmae_det.config import CfgNode
from vmae_det.data.classes import ModelClasses
from vmae_det.engine.setup import choose_device
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.inference.backends import load_scorer, read_extras
from vmae_det.inference.clips import plan_keyframes
from vmae_det.inference.detections import ActionDetections
from vmae_det.inference.person_detectors import build_person_detector
from vmae_det.inference.person_sources import Detected, GivenBoxes, PersonSource
from vmae_det.inference.stopwatch import Stopwatch
from vmae_det.inference.stream import ActionStream, Found, StreamOptions
from vmae_det.utils.errors import ConfigError, WeightsError, did_you_mean
from vmae_det.video.sources import VideoSource, open_source


class ActionPredictor:
    """Scores the actions of people in videos.

    Args:
        cfg: of an ActionDetector; MODEL.WEIGHTS names its weights.
        label_map: of the classes, for weights that hold none; where they do, the same names with other ids.
        actions: names or ids of the classes that are kept; None: all.

    Attributes:
        label_map: of the classes that are kept.

    Raises:
        ConfigError: the config is of another model, or an action is not in the label map.
        WeightsError: the weights cannot be read.
    """

    def __init__(
        self, cfg: CfgNode, label_map: LabelMap | None = None, actions: Sequence[str] | None = None
    ) -> None:
        if cfg.MODEL.META_ARCHITECTURE != "ActionDetector":
            raise ConfigError(
                "MODEL.META_ARCHITECTURE: detection needs an ActionDetector, "
                f"got {cfg.MODEL.META_ARCHITECTURE}"
            )
        self.cfg = cfg = cfg.clone()
        label_map = label_map_of(cfg.MODEL.WEIGHTS, label_map)
        if len(label_map) != cfg.MODEL.ROI_HEAD.NUM_CLASSES:
            raise ConfigError(
                f"MODEL.ROI_HEAD.NUM_CLASSES: {cfg.MODEL.ROI_HEAD.NUM_CLASSES}, but the label map has "
                f"{len(label_map)} classes"
            )
        self._columns = choose_actions(label_map, actions)
        self.label_map = label_map.select(self._columns)
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # there are no loader processes to leave cores to
        if choose_device(cfg).type == "cpu":
            cfg.TEST.BATCH_SIZE = 1  # more at once would be no faster, and hold more frames
        self.scorer = load_scorer(cfg)
        self._detector: Detected | None = None

    def __call__(
        self,
        video: str | Path,
        persons: PersonBoxes | PersonSource | None = None,
        video_start: float = 0.0,
        progress: bool = False,
        every: float = 1.0,
    ) -> ActionDetections:
        """Actions of the people of a video, which goes by the file's name without suffix.

        Args:
            persons: boxes at keyframes, of which those below TEST.PERSON_BOX_SCORE are left out; or what says
                who is in a keyframe; None: the config's PERSON_DETECTOR.
            video_start: second of the boxes' clock at which the file starts.
            every: seconds between keyframes, where `persons` dictates none.

        Raises:
            DataError: the video cannot be read, there are no boxes for it, or a keyframe lies outside it.
        """
        stream = self.stream(video, persons, every=every, options=StreamOptions(video_start=video_start))
        hidden = None if progress else True
        with stream, tqdm(stream, "scoring", len(stream.plan.times), unit="keyframe", disable=hidden) as bar:
            keyframes = list(bar)
        return ActionDetections.collect(Path(video), video_start, keyframes, self.label_map)

    def stream(
        self,
        video: str | Path | VideoSource,
        persons: PersonBoxes | PersonSource | None = None,
        *,
        every: float = 1.0,
        options: StreamOptions | None = None,
    ) -> ActionStream:
        """The same, one keyframe at a time, as soon as each is known; of streams and cameras too.

        Args:
            video: a file, a folder of frames, an address, a camera, or an open source.

        Raises:
            DataError: as above; while it runs, too.
        """
        options = options or StreamOptions()
        source = video if isinstance(video, VideoSource) else open_source(video, self.cfg.DATALOADER.READER)
        persons = self._person_source(persons, source)
        given = persons.keyframe_times()
        if given is not None:
            given = given - options.video_start
        plan = plan_keyframes(source, self.cfg, given, every, options.start, options.end)
        watch = options.stopwatch
        return ActionStream(source, plan, persons, lambda found: self.score(found, watch), self.cfg, options)

    def _person_source(self, persons: PersonBoxes | PersonSource | None, source: VideoSource) -> PersonSource:
        if persons is None:
            self._detector = self._detector or Detected(build_person_detector(self.cfg))
            return self._detector
        if isinstance(persons, PersonBoxes):
            return GivenBoxes(persons, source.video_id, self.cfg.TEST.PERSON_BOX_SCORE)
        return persons

    def score(self, found: Sequence[Found], stopwatch: Stopwatch | None = None) -> list[np.ndarray]:
        """Scores (N, classes) of the people of each keyframe clip."""
        watch = stopwatch or Stopwatch()
        scores = [np.zeros((0, len(self.label_map))) for _ in found]
        peopled = [number for number, item in enumerate(found) if len(item.boxes)]
        if not peopled:
            return scores
        with watch.part("batch"):
            items = [found[number] for number in peopled]
            batch = {
                "video": torch.stack([item.clip.video for item in items]),
                "boxes": [torch.as_tensor(i.boxes) * torch.tensor(i.clip.scale * 2) for i in items],
                "person_scores": [torch.as_tensor(i.person_scores, dtype=torch.float32) for i in items],
                "size": [torch.tensor(i.clip.size[::-1]) * torch.tensor(i.clip.scale) for i in items],
            }
        with watch.part("model"):
            for number, found_scores in zip(peopled, self.scorer(batch)):
                scores[number] = found_scores[:, self._columns]
        return scores


def choose_actions(label_map: LabelMap, actions: Sequence[str] | None) -> np.ndarray:
    """The columns of the actions of these names or ids, in the label map's order; ConfigError for others."""
    if actions is None:
        return np.arange(len(label_map))
    known = {str(number): column for column, number in enumerate(label_map.ids)}
    known |= {name: column for column, name in enumerate(label_map.names)}
    for action in actions:
        if action not in known:
            raise ConfigError(
                f"actions: '{action}' is not in the label map{did_you_mean(action, label_map.names)}"
            )
    return np.array(sorted({known[action] for action in actions}), dtype=np.int64)


def read_config(weights: str | Path) -> CfgNode:
    """The config that travels with weights, or that the model zoo has for them; MODEL.WEIGHTS names the file.

    Raises:
        WeightsError: there is none.
    """
    cfg = find_config(weights)
    if cfg is None:
        raise WeightsError(f"{weights}: holds no config; give the one it was made with by --config-file")
    return cfg


def find_config(weights: str | Path) -> CfgNode | None:
    """The same, or None where there is none."""
    cfg = stored_config(read_extras(weights), weights)
    if cfg is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    return cfg


def label_map_of(weights: str | Path, given: LabelMap | None = None) -> LabelMap:
    """The classes of a model in the order of its outputs: those that travel with its weights.

    Args:
        given: for weights that hold none, in that order; where they hold some, of the same names: its ids.

    Raises:
        WeightsError: there are none.
        ConfigError: `given` has other names than the weights.
    """
    stored = ModelClasses.from_stored(read_extras(weights).get("label_map"), str(weights))
    if stored is None and given is None:
        raise WeightsError(f"{weights}: holds no label map; give one by --label-map")
    if stored is None:
        return given
    return stored.label_map if given is None else stored.renumbered(given, "--label-map")
