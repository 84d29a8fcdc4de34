"""`FeatureExtractor`: features of clips that slide over a video, from one pass over its frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vmae_det.config import CfgNode, check_config
from vmae_det.data import transforms
from vmae_det.engine.setup import setup_device, warn_about_device
from vmae_det.engine.trainer import AMP_TYPES
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.inference.export.exported_model import is_exported
from vmae_det.inference.predictor import adapt_to_inference, read_config
from vmae_det.modeling.features import FEATURE_KINDS, blocks_of, video_features
from vmae_det.utils.channel import ThreadPipeline, batches
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.readers import open_video
from vmae_det.video.sampling import clip_from, sliding_clip_starts
from vmae_det.video.sources import FileSource, Frame, is_endless

logger = logging.getLogger(__name__)

VIEWS = ("crop", "stretch")
# Parameters that features need. The backbone's come first in every model.
REQUIRED = ("backbone.", "fc_norm.")
_BATCHES_AHEAD = 2  # batches that are decoded while the model runs

Columns = dict[str, np.ndarray]


class FeatureStream(Protocol):
    """Iterates over the features of one video in blocks of rows, and the columns that describe the rows.

    Attributes:
        row_shape: shape of the features of one row.
        info: what is known about the video: JSON values by name.
        progress: fraction of the video that is done, in [0, 1].
    """

    row_shape: tuple[int, ...]
    info: dict[str, Any]
    progress: float

    def __iter__(self) -> Iterator[tuple[np.ndarray, Columns]]:
        """Yield features float32 (n, *row_shape) and columns (n,)."""


@dataclass(frozen=True)
class ClipFeatures:
    """Features of n clips of a video.

    Attributes:
        features: float32 (n, C), (n, t, h, w, C) or (n, depth, C), as of `video_features`.
        start: (n,), time of the first frame of each clip in seconds from the first frame of the video.
        center: (n,), time halfway between the start of the first frame and the end of the last one.
        info: `fps`, `num_frames`, `duration` and `damaged_frames` of the video.
    """

    features: np.ndarray
    start: np.ndarray
    center: np.ndarray
    info: dict[str, Any]


def load_feature_model(
    cfg: CfgNode, required: tuple[str, ...] = REQUIRED
) -> tuple[torch.nn.Module, torch.device]:
    """Load the model of a config with MODEL.WEIGHTS on its device. Parameters of heads may be missing.

    Args:
        required: prefixes of the names of the parameters that the weights must have.

    Raises:
        ConfigError: the weights are an exported model, or the config describes another network.
        WeightsError: the weights cannot be read, or lack parameters that the features need.
    """
    if is_exported(cfg.MODEL.WEIGHTS):
        raise ConfigError(
            f"MODEL.WEIGHTS: {cfg.MODEL.WEIGHTS} is an exported model, which only returns scores; features "
            "need the checkpoint that it was exported from"
        )
    device = setup_device(cfg)
    warn_about_device(device, cfg.SOLVER.AMP)
    model = build_model_with_weights(cfg, complete=True, required=required)
    return model.to(device).eval(), device


class FeatureExtractor:
    """Extracts features of clips of INPUT.NUM_FRAMES frames, INPUT.SAMPLING_RATE apart.

    Args:
        cfg: config of any model with a backbone; MODEL.WEIGHTS names its weights.
        stride: frames from the start of one clip to the start of the next one.
        kind: "mean", "tokens" or "blocks" (see `modeling.features.video_features`).
        view: "crop" is the center crop of testing. "stretch" resizes the entire frame to INPUT.CROP_SIZE on
            both sides, without keeping its aspect ratio.
        batch_size: clips per batch (default: TEST.BATCH_SIZE; 1 on a CPU).

    Raises:
        ConfigError: an argument or the config is invalid.
        WeightsError: the weights cannot be read, or lack parameters that the features need.
    """

    def __init__(
        self,
        cfg: CfgNode,
        *,
        stride: int = 16,
        kind: str = "mean",
        view: str = "crop",
        batch_size: int | None = None,
    ) -> None:
        for name, value, known in (("kind", kind, FEATURE_KINDS), ("view", view, VIEWS)):
            if value not in known:
                raise ConfigError(f"{name}: expected {', '.join(known)}, got {value!r}")
        for name, number in (("stride", stride), ("batch_size", batch_size)):
            if number is not None and number < 1:
                raise ConfigError(f"{name}: expected an integer in [1, inf), got {number}")
        self.cfg = cfg = cfg.clone()
        adapt_to_inference(cfg)
        self.stride, self.kind, self.view = stride, kind, view
        self.model, self.device = load_feature_model(cfg)
        self.batch_size = batch_size or cfg.TEST.BATCH_SIZE
        self._amp = AMP_TYPES[cfg.SOLVER.AMP]
        self.row_shape = self._row_shape()

    @classmethod
    def from_weights(
        cls, weights: str | Path, *, frames: int | None = None, sampling_rate: int = 1, **options: Any
    ) -> FeatureExtractor:
        """Build an extractor with the config that is stored with weights.

        Args:
            frames: frames of a clip (default: INPUT.NUM_FRAMES of the config).
            sampling_rate: distance of the frames of a clip; 1: consecutive frames.
            options: keyword arguments of the class.
        """
        cfg = read_config(weights)
        if frames is not None:
            cfg.INPUT.NUM_FRAMES = frames
        cfg.INPUT.SAMPLING_RATE = sampling_rate
        check_config(cfg)
        return cls(cfg, **options)

    def __call__(self, video: str | Path) -> ClipFeatures:
        """Return the features of all clips of a video.

        Args:
            video: a file, a folder or pattern of frames, or an http(s) URL of a file.

        Raises:
            DataError: the video cannot be read, or it is a live stream.
        """
        stream = self.stream(video)
        features, columns = zip(*stream)
        start, center = (np.concatenate([part[name] for part in columns]) for name in ("start", "center"))
        return ClipFeatures(np.concatenate(features), start, center, stream.info)

    def stream(self, video: str | Path) -> ClipFeatureStream:
        """Open a video. Iterate over the result to get its features batch by batch."""
        return ClipFeatureStream(
            self, open_finite_source(video, self.cfg, whole_frame=self.view == "stretch")
        )

    @torch.inference_mode()
    def features(self, clips: Sequence[torch.Tensor]) -> np.ndarray:
        """Return the features, float32, of clips uint8 (3, T, H, W)."""
        video = torch.stack(list(clips)).to(self.device)
        with torch.autocast(self.device.type, self._amp, enabled=self._amp is not None):
            return video_features(self.model, video, self.kind).float().cpu().numpy()

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """Return the view of a frame, uint8 (3, CROP_SIZE, CROP_SIZE), of a frame uint8 (H, W, 3)."""
        clip, size = transforms.make_clip(image[None]), self.cfg.INPUT.CROP_SIZE
        stretch = self.view == "stretch"
        clip = transforms.resize(clip, size, size) if stretch else transforms.view_crop(clip, self.cfg)
        return transforms.to_video(clip)[:, 0]

    def _row_shape(self) -> tuple[int, ...]:
        backbone, node = self.model.backbone, self.cfg.INPUT
        if self.kind == "blocks":
            return len(blocks_of(backbone)), backbone.embed_dim
        if self.kind == "mean":
            return (backbone.embed_dim,)
        video = torch.empty(1, 3, node.NUM_FRAMES, node.CROP_SIZE, node.CROP_SIZE, device="meta")
        return *backbone.grid(video), backbone.embed_dim


def open_finite_source(video: str | Path, cfg: CfgNode, whole_frame: bool = False) -> FileSource:
    """Open a video of known length. A file at a URL is downloaded first.

    Args:
        whole_frame: decode frames at their full size, even with DATALOADER.DECODE_SMALLER.

    Raises:
        DataError: it cannot be read, or is a live stream.
    """
    if is_endless(str(video)):
        raise DataError("a live stream has no end; features need a video file or a folder of frames", video)
    node = cfg.DATALOADER
    smaller = node.DECODE_SMALLER and not whole_frame
    side = transforms.needed_short_side(cfg, training=False) if smaller else None
    return FileSource(open_video(video, node.READER, short_side=side))


@dataclass
class ClipFeatureStream:
    """The features of the clips of one video, as a `FeatureStream`. The columns are `start` and `center`.

    A damaged frame is replaced by the frame before it. A video that is shorter than a clip has one clip,
    which repeats the last frame. Both are logged as warnings.
    """

    extractor: FeatureExtractor
    source: FileSource
    progress: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        node, times = self.extractor.cfg.INPUT, self.source.times
        self.row_shape = self.extractor.row_shape
        self._length = node.NUM_FRAMES, node.SAMPLING_RATE
        self._starts = sliding_clip_starts(len(times), *self._length, self.extractor.stride)
        span = (node.NUM_FRAMES - 1) * node.SAMPLING_RATE + 1
        if len(times) < span:
            logger.warning(
                "%s: has %d frames, and a clip needs %d; its last frame is repeated",
                self.source.name,
                len(times),
                span,
            )
        self._start = times[self._starts]
        end = times[(self._starts + span - 1).clip(max=len(times) - 1)] + 1 / float(self.source.rate)
        self._center = (self._start + end) / 2
        self.info |= video_info(self.source) | {"damaged_frames": 0}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[np.ndarray, Columns]]:
        """Yield the features of each batch of clips, and the columns of its rows."""
        stages, row = ThreadPipeline(), 0
        try:
            for (clips,) in batches(stages.run(self._batches(), _BATCHES_AHEAD), 1):
                rows = slice(row, row + len(clips))
                yield (
                    self.extractor.features(clips),
                    {"start": self._start[rows], "center": self._center[rows]},
                )
                row += len(clips)
                self.progress = row / len(self)
        finally:
            self.source.close()
            stages.close()
        damaged = self.info["damaged_frames"]
        if damaged:
            logger.warning(
                "%s: %d frames are damaged; each is replaced by the frame before it",
                self.source.name,
                damaged,
            )

    def _batches(self) -> Iterator[list[torch.Tensor]]:
        """Yield the clips in batches that are the same in every run, so that the features are bit-equal."""
        batch = []
        for clip in self._clips():
            batch.append(clip)
            if len(batch) == self.extractor.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _clips(self) -> Iterator[torch.Tensor]:
        """Yield each clip, uint8 (3, T, H, W). Each frame is decoded and resized once."""
        total, number = len(self.source.times), 0
        needed = np.zeros(total, dtype=bool)
        for offset in range(self._length[0]):
            needed[(self._starts + offset * self._length[1]).clip(max=total - 1)] = True
        frames: dict[int, torch.Tensor] = {}  # prepared frames by index
        read = 0
        for frame in self._decode(np.flatnonzero(needed)):
            frames[frame.index] = self.extractor.prepare(frame.image)
            read += 1
            while number < len(self._starts) and self._indices(number)[-1] <= frame.index:
                yield self._clip(number, frames)
                number += 1
                _drop_before(frames, int(self._starts[min(number, len(self._starts) - 1)]))
        self.info["damaged_frames"] = int(needed.sum()) - read
        if not frames:
            raise DataError("none of its frames can be decoded", self.source.name)
        for rest in range(number, len(self._starts)):  # the frames at the end are damaged
            yield self._clip(rest, frames)

    def _decode(self, needed: np.ndarray) -> Iterator[Frame]:
        return self.source.frames(int(needed[0]), needed)

    def _indices(self, number: int) -> np.ndarray:
        return clip_from(int(self._starts[number]), len(self.source.times), *self._length)

    def _clip(self, number: int, frames: dict[int, torch.Tensor]) -> torch.Tensor:
        present = list(frames)
        nearest = (np.searchsorted(present, self._indices(number), side="right") - 1).clip(min=0)
        return torch.stack([frames[present[position]] for position in nearest], dim=1)


def video_info(source: FileSource) -> dict[str, Any]:
    """Return frame rate, number of frames and duration in seconds of a video."""
    rate = float(source.rate)
    return {"fps": rate, "num_frames": len(source.times), "duration": float(source.times[-1]) + 1 / rate}


def _drop_before(frames: dict[int, torch.Tensor], lowest: int) -> None:
    """Drop the frames before `lowest`, except the latest one, which replaces damaged frames after it."""
    for index in [index for index in frames if index < lowest][:-1]:
        del frames[index]
