"""How the benchmarks of tubes count: pixels, overlap in time, matching and averages, by name.

- `act`: the ACT detector's evaluation (Kalogeiton et al., ICCV 2017; ACT.py and ACT_utils.py). A box from x1
  to x2 is x2 - x1 + 1 pixels wide. A detection whose best ground truth is taken gets the next best. Average
  precision is the area under the points of precision over recall, without an envelope.
- `ucf101-24`, `jhmdb`: the same; boxes relative to the frame become pixels of these datasets' frames.
- `multisports`: MultiSports' evaluation (evaluate_multisports.py). Coordinates are continuous. A tube takes
  one frame less than it has. A detection whose best ground truth is taken is a false positive. Average
  precision has PASCAL VOC's envelope. Six rare classes are not scored.
- `continuous`: tubes as in `act` and frames as in `multisports`, for boxes in any unit; the numbers are no
  benchmark's.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmae_det.formats.tube_csv import MULTISPORTS_NOT_SCORED

# As the evaluators compute them: 0.1 + 0.1 * 2 is a little more than 0.3.
_AVERAGES = {
    "0.05:0.45": tuple(0.05 + 0.05 * i for i in range(9)),
    "0.10:0.90": tuple(0.1 + 0.1 * i for i in range(9)),
    "0.5:0.95": tuple(0.5 + 0.05 * i for i in range(10)),
}


@dataclass(frozen=True)
class Rules:
    """How detections of one class take ground truth, and the area of their curve."""

    takes_next_best: bool
    has_envelope: bool


_ACT, _VOC = Rules(takes_next_best=True, has_envelope=False), Rules(takes_next_best=False, has_envelope=True)


@dataclass(frozen=True)
class TubeProtocol:
    """One benchmark's way.

    Args:
        summary: in a few words.
        thresholds: of the IoU of tubes, that are reported one by one.
        averaged: names of the averages over thresholds that are reported.
        tubes, frames: rules of video-mAP and of frame-mAP.
        has_inclusive_pixels: a box is one pixel wider and higher than the differences of its coordinates.
        has_inclusive_frames: a tube takes as much time as it has frames, else one frame less.
        frame_size: (width, height) that relative boxes are turned into pixels of; None leaves them.
        not_scored: classes that do not count.
    """

    summary: str
    thresholds: tuple[float, ...]
    averaged: tuple[str, ...]
    tubes: Rules
    frames: Rules
    has_inclusive_pixels: bool = False
    has_inclusive_frames: bool = True
    frame_size: tuple[int, int] | None = None
    not_scored: tuple[str, ...] = ()

    def averages(self) -> dict[str, tuple[float, ...]]:
        """Thresholds of each average by its name."""
        return {name: _AVERAGES[name] for name in self.averaged}


def _act(summary: str, frame_size: tuple[int, int] | None = None) -> TubeProtocol:
    return TubeProtocol(
        summary, (0.2, 0.5, 0.75), ("0.5:0.95",), _ACT, _ACT, has_inclusive_pixels=True, frame_size=frame_size
    )


TUBE_PROTOCOLS = {
    "continuous": TubeProtocol(
        "coordinates of any unit, no benchmark's numbers", (0.2, 0.5), ("0.5:0.95",), _ACT, _VOC
    ),
    "act": _act("the ACT detector's evaluation, boxes in inclusive pixels"),
    "ucf101-24": _act("the ACT detector's evaluation, frames of 320 x 240", (320, 240)),
    "jhmdb": _act("the ACT detector's evaluation, frames of 320 x 240", (320, 240)),
    "multisports": TubeProtocol(
        "MultiSports' evaluation, 6 rare classes not scored",
        (0.2, 0.5),
        ("0.05:0.45", "0.10:0.90", "0.5:0.95"),
        _VOC,
        _VOC,
        has_inclusive_frames=False,
        not_scored=MULTISPORTS_NOT_SCORED,
    ),
}
