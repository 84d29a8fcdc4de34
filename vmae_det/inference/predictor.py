"""`ActionPredictor`: detects the actions of persons in a video with one call.

Also reads the config and the label map that are stored with weights.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate
from tqdm import tqdm

from vmae_det.checkpoint.stored_config import stored_config
from vmae_det.config import CfgNode
from vmae_det.config.checks import detects_with_person_head
from vmae_det.data.classes import ModelClasses
from vmae_det.data.test_time_augmentation import (
    add_persons,
    average_scores,
    has_several_views,
    log_views,
    views_of,
    warn_about_flip,
)
from vmae_det.engine.num_classes import resolve_num_classes
from vmae_det.engine.setup import setup_device
from vmae_det.formats.label_map import LabelMap, suggest_label_map
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.inference.detections import ActionDetections
from vmae_det.inference.keyframe_clips import ClipWithPersons, KeyframeClip, plan_keyframes
from vmae_det.inference.person_detectors import build_person_detector
from vmae_det.inference.person_sources import BoxesFromFile, DetectedPersons, PersonsOfModel, PersonSource
from vmae_det.inference.scorers import (
    EagerModel,
    Scorer,
    check_architecture,
    load_scorer,
    read_stored_metadata,
)
from vmae_det.inference.stream import (
    ActionStream,
    StreamOptions,
    collate_clips,
    collate_videos,
    to_keyframes,
)
from vmae_det.utils.errors import ConfigError, UserError, WeightsError, did_you_mean
from vmae_det.utils.resource_usage import Stopwatch
from vmae_det.video.sources import VideoSource, open_source

_HEAT_MAP_PIXELS = 4  # pixels of the clip per value of a heat map


class ActionPredictor:
    """Detects the actions of persons in videos.

    Args:
        cfg: config of an ActionDetector; MODEL.WEIGHTS names its weights.
        label_map: label map of the classes, if none is stored with the weights. If one is, this one may
            assign other ids to the same names.
        actions: names or ids of the classes to keep; None: all classes.

    Attributes:
        label_map: label map of the kept classes.

    Raises:
        ConfigError: the config describes another model, or an action is not in the label map.
        WeightsError: the weights cannot be read.
    """

    def __init__(
        self, cfg: CfgNode, label_map: LabelMap | None = None, actions: Sequence[str] | None = None
    ) -> None:
        check_architecture(cfg, "ActionDetector")
        self.cfg = cfg = cfg.clone()
        adapt_to_inference(cfg)
        label_map = label_map_of(cfg.MODEL.WEIGHTS, label_map, cfg.MODEL.ROI_HEAD.NUM_CLASSES)
        if len(label_map) != cfg.MODEL.ROI_HEAD.NUM_CLASSES:
            raise ConfigError(
                f"MODEL.ROI_HEAD.NUM_CLASSES: {cfg.MODEL.ROI_HEAD.NUM_CLASSES}, but the label map has "
                f"{len(label_map)} classes"
            )
        self._columns = choose_actions(label_map, actions)
        self.label_map = label_map.select(self._columns)
        self.scorer = load_scorer(cfg)
        log_views(cfg)
        if cfg.TEST.FLIP:
            warn_about_flip(cfg, self.label_map)
        self._default_persons: PersonSource | None = None
        if not self.scorer.takes_boxes:
            self._check_one_stage_file()

    def __call__(
        self,
        video: str | Path,
        persons: PersonBoxes | PersonSource | None = None,
        video_start: float = 0.0,
        progress: bool = False,
        every: float = 1.0,
    ) -> ActionDetections:
        """Detect the actions in a video. The id of the video is its file name without suffix.

        Args:
            persons: person boxes at keyframes, of which those below TEST.PERSON_BOX_SCORE are dropped; or a
                source of person boxes; None: those that the config's PERSON_DETECTOR finds, which may be the
                person head of the model.
            video_start: second on the boxes' clock at which the file starts.
            progress: show a progress bar.
            every: seconds between keyframes, if `persons` does not determine the keyframes.

        Raises:
            DataError: the video cannot be read, there are no boxes for it, or a keyframe is outside of it.
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
        """Detect as `__call__` does, but yield each keyframe as soon as it is scored; also for live sources.

        Args:
            video: a file, a folder of frames, a URL, a camera, or an open source.

        Raises:
            DataError: as for `__call__`; also while the stream runs.
            UserError: heat maps are requested, and the model is an exported one.
        """
        options = options or StreamOptions()
        stopwatch, explain_clips = options.stopwatch, None
        if options.explain is not None:
            if not isinstance(self.scorer, EagerModel):
                raise UserError(
                    f"{self.cfg.MODEL.WEIGHTS}: an exported model has no gradients, which heat maps need; "
                    "pass the weights it was exported from"
                )
            explain_clips = partial(self.explain, threshold=options.explain, stopwatch=stopwatch)
        source = video if isinstance(video, VideoSource) else open_source(video, self.cfg.DATALOADER.READER)
        persons = self._person_source(persons, source)
        given = persons.keyframe_times()
        if given is not None:
            given = given - options.video_start
        plan = plan_keyframes(source, self.cfg, given, every, options.start, options.end)
        return ActionStream(
            source,
            plan,
            persons,
            lambda clips: self.score(clips, stopwatch),
            self.cfg,
            options,
            explain_clips=explain_clips,
        )

    @property
    def finds_persons(self) -> bool:
        """Whether the model finds the persons itself, unless others are given."""
        return self.scorer.finds_persons and detects_with_person_head(self.cfg)

    def with_scorer(self, scorer: Scorer | None) -> ActionPredictor:
        """Return this predictor with another scorer, such as a model in another process.

        Without any, it can be sent to another process, and get its scorer there.
        """
        other = copy.copy(self)
        other.scorer, other._default_persons = scorer, None
        return other

    def _person_source(self, persons: PersonBoxes | PersonSource | None, source: VideoSource) -> PersonSource:
        if persons is None:
            if self._default_persons is None:
                self._default_persons = (
                    PersonsOfModel(self.find_and_score)
                    if self.finds_persons
                    else DetectedPersons(build_person_detector(self.cfg))
                )
            persons = self._default_persons
        if not self.scorer.takes_boxes and not isinstance(persons, PersonsOfModel):
            raise ConfigError(
                f"{self.cfg.MODEL.WEIGHTS}: finds the people itself and takes no person boxes; use the "
                "weights that it was exported from, or export them with TEST.PERSON_BOXES dataset"
            )
        if isinstance(persons, PersonBoxes):
            return BoxesFromFile(persons, source.video_id, self.cfg.TEST.PERSON_BOX_SCORE)
        return persons

    def score(self, clips: Sequence[ClipWithPersons], stopwatch: Stopwatch | None = None) -> list[np.ndarray]:
        """Return the scores (N, classes) of the persons of each keyframe clip: the mean over the views of
        test-time augmentation, if there are several.
        """
        stopwatch = stopwatch or Stopwatch()
        scores = [np.zeros((0, len(self.label_map))) for _ in clips]
        with_persons = [number for number, item in enumerate(clips) if len(item.boxes)]
        if not with_persons:
            return scores
        with stopwatch.measure("batch"):
            batch = collate_clips([clips[number] for number in with_persons])
        with stopwatch.measure("model"):
            views = [self.scorer(view) for view in views_of(batch, self.cfg.TEST.FLIP)]
            for number, clip_scores in zip(with_persons, average_scores(views)):
                scores[number] = clip_scores[:, self._columns]
        return scores

    def find_and_score(self, clips: Sequence[KeyframeClip]) -> list[ClipWithPersons]:
        """Return keyframe clips with the persons that the model finds, and their scores.

        With test-time augmentation, the persons are found in the first view, and scored in all of them.
        """
        batch = collate_videos(clips)
        found = self.scorer.find(next(views_of(batch)))
        views = [found.scores]
        if has_several_views(self.cfg):
            persons = {
                "boxes": [torch.from_numpy(own) for own in found.boxes],
                "person_scores": [torch.from_numpy(own) for own in found.person_scores],
            }
            others = views_of(add_persons(batch, persons), self.cfg.TEST.FLIP)
            next(others)
            views += [self.scorer(view) for view in others]
        scores = [clip_scores[:, self._columns] for clip_scores in average_scores(views)]
        return to_keyframes(clips, found.boxes, found.person_scores, scores)

    def _check_one_stage_file(self) -> None:
        """Raise a ConfigError for test-time augmentation, which scores given boxes."""
        if has_several_views(self.cfg):
            key = "TEST.FLIP" if self.cfg.TEST.FLIP else "TEST.SHORT_SIDES"
            raise ConfigError(
                f"{key}: test-time augmentation scores the same people in several views, but "
                f"{self.cfg.MODEL.WEIGHTS} takes no person boxes; use the weights that it was exported from"
            )

    def explain(
        self,
        clips: Sequence[ClipWithPersons],
        scores: Sequence[np.ndarray],
        threshold: float = 0.0,
        stopwatch: Stopwatch | None = None,
    ) -> list[np.ndarray]:
        """Return for each person which regions raise the score of its best class: maps (N, h, w) in [0, 1].

        A map covers the frame. Its maximum is 1, so maps of different persons cannot be compared. It is 0
        for persons whose best score is below the threshold. With test-time augmentation, it is that of the
        first view.

        Args:
            clips: keyframe clips.
            scores: scores (N, classes) of each clip, from `score`.
        """
        results = []
        for item, own in zip(clips, scores):
            width, height = (
                max(round(side * scale / _HEAT_MAP_PIXELS), 1)
                for side, scale in zip(item.clip.size[::-1], item.clip.scale)
            )
            maps = np.zeros((len(own), height, width), dtype=np.float32)
            rows = np.flatnonzero(own.max(axis=1, initial=0) >= threshold)
            if len(rows):
                part = replace(item, boxes=item.boxes[rows], person_scores=item.person_scores[rows])
                with (stopwatch or Stopwatch()).measure("explain"):
                    batch = next(views_of(collate_clips([part])))
                    (tokens,) = self.scorer.explain(batch, [self._columns[own[rows].argmax(axis=1)]])
                padded = [max(side // _HEAT_MAP_PIXELS, 1) for side in batch["video"].shape[-2:]]
                resized = interpolate(torch.from_numpy(tokens)[None], padded, mode="bilinear")[0].numpy()
                resized = resized[:, :height, :width]
                top = resized.max(axis=(1, 2), keepdims=True)
                maps[rows] = np.divide(resized, top, out=np.zeros_like(resized), where=top > 0)
            results.append(maps)
        return results


def adapt_to_inference(cfg: CfgNode) -> None:
    """Set up the device of a config (see `setup_device`), resolve `NUM_CLASSES: auto` and set loader keys.

    Raises:
        ConfigError: the device is not available, or the number of classes is not known.
    """
    cfg.defrost()
    resolve_num_classes(cfg)
    cfg.DATALOADER.NUM_WORKERS = 0  # inference has no loader workers that need cores
    if setup_device(cfg).type == "cpu":
        cfg.TEST.BATCH_SIZE = 1  # larger batches are not faster on a CPU, and keep more frames in memory


def choose_actions(label_map: LabelMap, actions: Sequence[str] | None) -> np.ndarray:
    """Return the columns of the actions with these names or ids, in the label map's order; None: all.

    Raises:
        ConfigError: an action is not in the label map.
    """
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
    """Return the config that is stored with weights, or that the model zoo has for them.

    MODEL.WEIGHTS of the config is set to `weights`.

    Raises:
        WeightsError: there is no config.
    """
    cfg = find_config(weights)
    if cfg is None:
        raise WeightsError(
            f"{weights}: contains no config; pass the config it was trained with by --config-file"
        )
    return cfg


def find_config(weights: str | Path) -> CfgNode | None:
    """Return the config as `read_config` does, or None if there is none."""
    cfg = stored_config(read_stored_metadata(weights), weights)
    if cfg is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    return cfg


def label_map_of(weights: str | Path, given: LabelMap | None = None, classes: int = 0) -> LabelMap:
    """Return the label map that is stored with weights; its order is that of the model's outputs.

    Args:
        given: the label map, in the order of the outputs, if none is stored. If one is stored, `given` must
            have the same names, and its ids are used.
        classes: number of outputs of the model, to suggest a built-in label map in the error.

    Raises:
        WeightsError: no label map is stored or given.
        ConfigError: `given` has other names than the stored label map.
    """
    label_map = find_label_map(weights, given)
    if label_map is None:
        raise WeightsError(
            f"{weights}: contains no label map; pass one by --label-map{suggest_label_map(classes)}"
        )
    return label_map


def find_label_map(weights: str | Path, given: LabelMap | None = None) -> LabelMap | None:
    """Return the label map as `label_map_of` does, or None if there is none."""
    stored = ModelClasses.from_checkpoint(read_stored_metadata(weights).get("label_map"), str(weights))
    if stored is None or given is None:
        return given if stored is None else stored.label_map
    return stored.renumbered(given, "--label-map")
