"""Proposed boxes, tracks and actions: of a detector in a thread, or of the dataset's person boxes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vmae_det.config import CfgNode
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.person_boxes import PersonBoxes, read_person_boxes
from vmae_det.utils.errors import UserError, one_line
from vmae_det.web.annotate.document import milliseconds, seconds
from vmae_det.web.annotate.queues import Place, uncertainty

if TYPE_CHECKING:
    from vmae_det.web.annotate.proposal_files import ProposalFiles

logger = logging.getLogger(__name__)

MIN_SCORE = 0.05  # of the actions that are listed
NONE, RUNNING, READY, FAILED = "none", "running", "ready", "failed"


@dataclass(frozen=True)
class Proposal:
    """A proposed person at a keyframe.

    Args:
        time: milliseconds on the dataset's clock.
        track: number of the track.
        box: x1, y1, x2, y2 in [0, 1] of the frame.
        score: of the person detector.
        actions: (id, score) of the likely actions, best first.
        uncertainty: entropy of the scores.
    """

    time: int
    track: int
    box: tuple[float, float, float, float]
    score: float
    actions: tuple[tuple[int, float], ...] = ()
    uncertainty: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as the page expects it."""
        actions = [[number, round(score, 4)] for number, score in self.actions]
        return {
            "second": seconds(self.time),
            "person": f"p{self.track}",
            "box": list(self.box),
            "score": round(self.score, 4),
            "actions": actions,
        }


@dataclass
class VideoProposals:
    """The proposals of a video, and how far they are: state, progress from 0 to 1, and an error message."""

    state: str = NONE
    progress: float = 0.0
    message: str = ""
    proposals: list[Proposal] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        """Return state, progress and message as the page expects them."""
        return {"proposal_state": self.state, "progress": round(self.progress, 3), "message": self.message}


class Detector(Protocol):
    """Finds the people of a video, and maybe their actions."""

    name: str

    def __call__(
        self, video: str, path: Path, start: float, keyframes: Sequence[int]
    ) -> Iterator[tuple[float, list[Proposal]]]:
        """Yield the progress from 0 to 1 and the proposals of each keyframe."""


class Proposer:
    """Keeps the proposals of all videos, and runs a detector on one video at a time, in a thread.

    Args:
        detector: builds the detector when it is first needed; None if there is none.
        name: of the detector; "" if there is none.
        persons: person boxes of the dataset, such as the output of detect-persons.
        notify: called with the id of a video whose proposals have changed.
        files: keeps the proposals of the detector over restarts; None: they are only in memory.
    """

    def __init__(
        self,
        detector: Callable[[], Detector] | None,
        name: str = "",
        persons: Path | None = None,
        notify: Callable[[str], None] = lambda video: None,
        files: ProposalFiles | None = None,
    ) -> None:
        self.name = name
        self._files, self._has_read_all = files, False
        self.notify = notify
        self._build = detector
        self._detector: Detector | None = None
        self._persons_file, self._persons = persons, None
        self._lock = threading.Lock()
        self._videos: dict[str, VideoProposals] = {}
        self._queue: SimpleQueue[tuple[str, Path, float, Sequence[int]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def of(self, video: str) -> VideoProposals:
        """Return the proposals of a video: those of the detector, else the dataset's person boxes."""
        with self._lock:
            if video not in self._videos:
                found = self._files.read(video) if self._files else []
                kept = VideoProposals(READY, 1.0, proposals=found)
                self._videos[video] = kept if found else self._from_file(video)
            return self._videos[video]

    def start(self, video: str, path: Path, start: float, keyframes: Sequence[int]) -> VideoProposals:
        """Run the detector on a video, after those that wait already.

        Raises:
            UserError: there is no detector.
        """
        if self._build is None:
            raise UserError("there is no detector")
        current = self.of(video)
        with self._lock:
            if current.state == RUNNING:
                return current
            current.state, current.progress, current.message = RUNNING, 0.0, ""
            self._queue.put((video, path, start, keyframes))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        self.notify(video)
        return current

    def uncertainties(self) -> dict[Place, float]:
        """Return the uncertainty of each keyframe with proposals: that of its least certain person."""
        found: dict[Place, float] = {}
        with self._lock:
            if self._files and not self._has_read_all:
                self._has_read_all = True
                for video, proposals in self._files.read_all():
                    self._videos.setdefault(video, VideoProposals(READY, 1.0, proposals=proposals))
            for video, own in self._videos.items():
                for proposal in own.proposals:
                    place = video, proposal.time
                    found[place] = max(found.get(place, 0.0), proposal.uncertainty)
        return found

    def _work(self) -> None:
        while True:
            video, *arguments = self._queue.get()
            own = self._videos[video]
            try:
                if self._detector is None:
                    self._detector = self._build()
                found: list[Proposal] = []
                for progress, proposals in self._detector(video, *arguments):
                    found += proposals
                    if progress - own.progress >= 0.01:
                        own.progress = progress
                        self.notify(video)
                if not found:
                    raise UserError("the detector found nobody; try a lower PERSON_DETECTOR.SCORE")
                if self._files:
                    self._files.write(video, found)
                own.proposals, own.state, own.progress = found, READY, 1.0
            except UserError as error:
                own.state, own.message = FAILED, one_line(error)
            except Exception:
                logger.exception("%s: proposals failed", video)
                own.state, own.message = FAILED, "the detector failed; the terminal of the server shows why"
            self.notify(video)

    def _from_file(self, video: str) -> VideoProposals:
        if self._persons_file is None:
            return VideoProposals()
        try:
            if self._persons is None:
                self._persons = read_person_boxes(self._persons_file)
        except UserError as error:
            return VideoProposals(FAILED, message=one_line(error))
        found = proposals_from_boxes(self._persons, video)
        return VideoProposals(READY if found else NONE, 1.0 if found else 0.0, proposals=found)


def proposals_from_boxes(persons: PersonBoxes, video: str) -> list[Proposal]:
    """Return the boxes of a file for a video, linked to tracks."""
    from vmae_det.inference.tracking import link

    names = {str(name): number for number, name in enumerate(persons.videos)}
    rows = persons.select(persons.video == names.get(video, -1))
    rows = rows.select(np.argsort(rows.timestamp, kind="stable"))
    if not len(rows):
        return []
    tracks = link(rows.timestamp, rows.boxes)
    return [
        _proposal(time, track, box, score)
        for time, track, box, score in zip(rows.timestamp, tracks, rows.boxes, rows.score)
    ]


def _proposal(
    time: float,
    track: int,
    box: np.ndarray,
    score: float,
    scores: np.ndarray | None = None,
    ids: Sequence[int] = (),
) -> Proposal:
    """Return a proposal; `scores` (classes,) are those of the actions `ids`."""
    sides = tuple(round(float(side), 6) for side in np.clip(box, 0, 1))
    if scores is None:
        return Proposal(milliseconds(time), int(track), sides, float(score), (), uncertainty([score]))
    order = [column for column in np.argsort(-scores, kind="stable") if scores[column] >= MIN_SCORE]
    actions = tuple((ids[column], float(scores[column])) for column in order)
    return Proposal(milliseconds(time), int(track), sides, float(score), actions, uncertainty(scores))


# ---------------------------------------------------------------- detectors


class PersonDetections:
    """The boxes of a person detector, linked to tracks.

    Args:
        cfg: its PERSON_DETECTOR keys.

    Raises:
        UserError: the detector cannot be built.
    """

    def __init__(self, cfg: CfgNode) -> None:
        from vmae_det.inference.person_detectors import build_person_detector

        self.cfg = cfg
        self.name = cfg.PERSON_DETECTOR.NAME
        self._detector = build_person_detector(cfg)

    def __call__(
        self, video: str, path: Path, start: float, keyframes: Sequence[int]
    ) -> Iterator[tuple[float, list[Proposal]]]:
        """Yield the progress and the proposals of each keyframe."""
        from vmae_det.inference.detect_persons import keyframe_batches
        from vmae_det.inference.tracking import Tracker
        from vmae_det.video.readers import open_video

        reader = open_video(path, self.cfg.DATALOADER.READER)
        times = np.array(keyframes) / 1000
        indices = np.array([reader.index_at(time - start) for time in times], dtype=int)
        tracker = Tracker()
        for numbers, frames in keyframe_batches(reader, indices, self.cfg.PERSON_DETECTOR.BATCH_SIZE):
            found = []
            for number, frame, (boxes, scores) in zip(numbers, frames, self._detector.detect(frames)):
                height, width = frame.shape[:2]
                boxes = boxes / [width, height, width, height]
                tracks = tracker.update(boxes, scores, float(times[number]))
                found += [_proposal(times[number], *one) for one in zip(tracks, boxes, scores)]
            yield (numbers[-1] + 1) / len(times), found


class ActionDetections:
    """People and actions of an action detector. The names of its actions are those of the dataset.

    Args:
        cfg: its config, with the weights.
        label_map: of the dataset. Actions that only one of the two knows are ignored.
        persons: person boxes of the dataset, for a detector that does not find people itself.

    Raises:
        UserError: the weights cannot be read, or share no action with the dataset.
    """

    def __init__(self, cfg: CfgNode, label_map: LabelMap, persons: PersonBoxes | None = None) -> None:
        from vmae_det.inference.predictor import ActionPredictor

        self.name = Path(str(cfg.MODEL.WEIGHTS)).name
        self._predictor = ActionPredictor(cfg)
        known = dict(zip(label_map.names, label_map.ids))
        names = self._predictor.label_map.names
        self._columns = [column for column, name in enumerate(names) if name in known]
        self._ids = [known[names[column]] for column in self._columns]
        if not self._ids:
            raise UserError(
                f"{cfg.MODEL.WEIGHTS}: none of its actions, such as '{names[0]}', is in the label map"
            )
        self._persons = None if self._predictor.finds_persons else persons

    def __call__(
        self, video: str, path: Path, start: float, keyframes: Sequence[int]
    ) -> Iterator[tuple[float, list[Proposal]]]:
        """Yield the progress and the proposals of each regular keyframe."""
        from vmae_det.inference.stream import StreamOptions

        every = float(np.median(np.diff(keyframes))) / 1000 if len(keyframes) > 1 else 1.0
        known = set(keyframes)
        options = StreamOptions(video_start=start)
        with self._predictor.stream(path, self._persons_of(video), every=every, options=options) as stream:
            count = len(stream.plan.times)
            for number, found in enumerate(stream, start=1):
                scores = found.scores[:, self._columns]
                rows = zip(found.tracks, found.boxes, found.person_scores, scores)
                is_known = milliseconds(found.timestamp) in known
                proposals = [_proposal(found.timestamp, *row, self._ids) for row in rows] if is_known else []
                yield number / count, proposals

    def _persons_of(self, video: str) -> PersonBoxes | None:
        if self._persons is None or video not in self._persons.videos:
            return None
        return self._persons
