"""The model of a server, and the calls by which decoders use it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.classifier import ActionClassifier
from vmae_det.inference.person_detectors import build_person_detector
from vmae_det.inference.person_sources import FrameDetector
from vmae_det.inference.predictor import ActionPredictor
from vmae_det.inference.scorers import Scorer
from vmae_det.utils.errors import ConfigError, UserError, one_line
from vmae_det.utils.memory import is_out_of_memory, out_of_memory_error
from vmae_det.web.serve.messages import Message, MessageError, pack, unpack

logger = logging.getLogger(__name__)

DETECT, CLASSIFY = "detect", "classify"
_MAX_FAILURES = 3  # failed calls in a row, each of another job, after which the model is at fault


class ServedModel:
    """A detector or a classifier in memory.

    Args:
        cfg: config of the weights, with MODEL.WEIGHTS.
        label_map: as in ActionPredictor.
        whole_frame: treat the whole frame as one person instead of detecting people.

    Attributes:
        task: "detect" or "classify".
        name: file name of the weights.
        predictor: without the model, to be sent to another process.
        finds_persons: whether the model finds the persons of a clip.
        failure: why no video can be processed; None if the model works.

    Raises:
        ConfigError: the weights are of another model.
        WeightsError: weights cannot be read.
    """

    def __init__(self, cfg: CfgNode, label_map: LabelMap | None = None, whole_frame: bool = False) -> None:
        self.name = Path(str(cfg.MODEL.WEIGHTS)).name
        self.task = CLASSIFY if cfg.MODEL.META_ARCHITECTURE == "VideoClassifier" else DETECT
        self.whole_frame, self.finds_persons = whole_frame, False
        self._detector: FrameDetector | None = None
        predictor: ActionPredictor | ActionClassifier
        if self.task == CLASSIFY:
            if whole_frame:
                raise ConfigError("--whole-frame: not used with a classifier, which has no persons")
            predictor = ActionClassifier(cfg, label_map)
        else:
            predictor = ActionPredictor(cfg, label_map)
            self.finds_persons = predictor.finds_persons and not whole_frame
            if not self.finds_persons and not predictor.scorer.takes_boxes:
                raise ConfigError(
                    f"--whole-frame: {cfg.MODEL.WEIGHTS} finds the people itself; remove the option"
                )
            if not (self.finds_persons or whole_frame):
                self._detector = build_person_detector(predictor.cfg)
        self._scorer: Scorer = predictor.scorer
        self._device = getattr(self._scorer, "device", torch.device("cpu"))
        self._lock = threading.Lock()
        self._failures = 0
        self.failure: str | None = None
        self.predictor = predictor.with_scorer(None)

    @property
    def actions(self) -> Sequence[str]:
        """Names of the classes."""
        return self.predictor.label_map.names

    def answer(self, call: Message) -> Message:
        """Run the model, or the person detector, for a decoder.

        Raises:
            MessageError: it is no valid call.
        """
        try:
            with self._lock:
                layout, arrays = pack(self._call(call))
        except MessageError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return Message("error", one_line(out_of_memory_error(error)))
            return Message("error", self._record(error))
        if call.kind != "people":  # the person detector may work although the model fails
            self._failures, self.failure = 0, None
        return Message("result", layout, arrays)

    def _record(self, error: Exception) -> str:
        """Decide whether a video or the model is at fault; return the error of the job."""
        reason = one_line(error)
        if not isinstance(error, UserError):
            logger.exception("the model failed")
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
        self._failures += 1
        if not _works(self._device):  # an error of CUDA stays until the process ends
            self.failure = f"the device {self._device} failed; restart the server ({reason})"
        elif self._failures >= _MAX_FAILURES:
            self.failure = f"the model failed {self._failures} times in a row ({reason})"
        if self.failure or isinstance(error, UserError):
            return self.failure or reason
        return "the model failed; the server's terminal shows the reason"

    def _call(self, call: Message) -> Mapping[str, Any]:
        if call.kind == "score":
            return {"scores": self._scorer(unpack(call.content, call.arrays))}
        if call.kind == "find":
            return self._scorer.find(unpack(call.content, call.arrays))._asdict()
        if call.kind == "people" and self._detector is not None:
            people = self._detector.detect(list(call.arrays))
            return {"boxes": [boxes for boxes, _ in people], "scores": [scores for _, scores in people]}
        raise MessageError(f"unknown call {call.kind[:40]!r}")


def _works(device: torch.device) -> bool:
    """Return whether a device can add."""
    try:
        return torch.ones(2, device=device).sum().item() == 2
    except Exception as error:
        return is_out_of_memory(error)


class RemoteModel:
    """The model as a decoder sees it: a `Scorer` and a `FrameDetector` that ask the server.

    Args:
        ask: sends a call to the server and returns its answer.
    """

    takes_boxes = True

    def __init__(self, ask: Any, finds_persons: bool) -> None:
        self._ask, self.finds_persons = ask, finds_persons

    def __call__(self, batch: dict) -> list[np.ndarray]:
        """Return the scores of each clip's persons (see `Scorer`)."""
        return self._call("score", batch)["scores"]

    def find(self, batch: dict) -> Any:
        """Return the persons that the model finds, and their scores (see `Scorer`)."""
        from vmae_det.inference.export.exported_model import FoundPersons

        return FoundPersons(**self._call("find", batch))

    def detect(self, frames: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the boxes and scores of the persons of each frame (see `FrameDetector`)."""
        found = self._result(Message("people", None, list(frames)))
        return list(zip(found["boxes"], found["scores"]))

    def _call(self, kind: str, batch: dict) -> dict[str, list[np.ndarray]]:
        return self._result(Message(kind, *pack(batch)))

    def _result(self, call: Message) -> dict[str, list[np.ndarray]]:
        answer = self._ask(call)
        if answer.kind == "error":
            raise UserError(answer.content)
        lists = unpack(answer.content, answer.arrays)
        return {name: [tensor.numpy() for tensor in own] for name, own in lists.items()}
