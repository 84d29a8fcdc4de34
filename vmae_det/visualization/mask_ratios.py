"""Draws reconstructions of clips at several mask ratios, as in the figures of the VideoMAE paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vmae_det.config import CfgNode, check_config
from vmae_det.data import transforms
from vmae_det.data.catalog import DatasetSpec
from vmae_det.data.datasets import ClipDataset, UnlabeledVideos
from vmae_det.data.loader import build_dataset, collate, load_first_test_batch
from vmae_det.data.transforms import Clip
from vmae_det.engine.setup import setup_device
from vmae_det.engine.trainer import to_device
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.modeling import MaskedAutoencoder, model_class
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.sampling import evenly_spaced_clip
from vmae_det.visualization.pictures import clip_frames, draw_blocks, draw_rows, draw_text, stack
from vmae_det.visualization.reconstruction import mask_tokens

RATIOS = (0.75, 0.9, 0.95)  # those of the paper's figures
PLAYBACK_RATE = 25.0  # assumed frame rate of the videos of a dataset
_MAX_COLUMNS = 8
_NORMALIZED_NOTE = (
    "The model predicts normalized pixels: each token minus its mean, divided by its standard deviation. "
    "Both are taken from the original pixels here, so brightness, color and contrast of a token are known "
    "and only its pattern is predicted."
)

CaptionedClips = list[tuple[str, np.ndarray]]  # captions and clips, uint8 (3, T, H, W)


class EvenlySpacedClips(UnlabeledVideos):
    """`count` clips evenly spaced over one video file, with the transforms of a pre-training test set."""

    def __init__(self, cfg: CfgNode, path: Path, count: int) -> None:
        super().__init__(cfg, DatasetSpec(str(path), "videos", path), training=False)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def path_of(self, index: int) -> Path:
        """Return the path of the video."""
        return self.files[0]

    def load_test(self, index: int) -> tuple[Clip, dict[str, Any]]:
        """Return the center crop of clip `index`."""
        reader = self.open(self.files.location(0))
        frames = evenly_spaced_clip(len(reader), *self.clip_sampling, index, self.count)
        clip, extra = self._decode(reader, frames)
        return transforms.view_crop(clip, self.cfg), extra


def draw_mask_ratios(
    cfg: CfgNode,
    *,
    ratios: tuple[float, ...] = RATIOS,
    video: Path | None = None,
    dataset: str = "",
    count: int = 3,
) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Draw reconstructions of clips of a video, or of the first readable videos of a dataset.

    Args:
        cfg: config of a MaskedAutoencoder; MODEL.WEIGHTS names its weights.
        ratios: mask ratios. A higher ratio masks all tokens of a lower one, and more.
        video: video file; its clips are evenly spaced.
        dataset: name of a dataset, if there is no `video` (default: the first of DATASETS.TEST, else of
            TRAIN).
        count: number of clips.

    Returns:
        A picture, the frames of an animation, all uint8 RGB (H, W, 3), and the frame rate of the animation.

    Raises:
        ConfigError: the model is not an autoencoder, or a ratio masks no or all tokens.
        DataError: no video can be read.
    """
    if model_class(cfg) is not MaskedAutoencoder:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: reconstruction requires a MaskedAutoencoder, got "
            f"{cfg.MODEL.META_ARCHITECTURE}"
        )
    for ratio in ratios:
        _check_ratio(cfg, ratio)
    batch = _clips_of_video(cfg, video, count) if video else _clips_of_dataset(cfg, dataset, count)
    device = setup_device(cfg)
    model = build_model_with_weights(cfg, complete=True).to(device).eval()
    clips = reconstruct_clips(model, to_device(batch, device), ratios)
    names = [Path(path).name for path in batch["path"]]
    note = _NORMALIZED_NOTE if cfg.MODEL.RECONSTRUCTION.NORMALIZE else ""
    rate = PLAYBACK_RATE / (cfg.MODEL.RECONSTRUCTION.SAMPLING_RATE or cfg.INPUT.SAMPLING_RATE)
    return _draw_picture(clips, names, note), _draw_animation(clips, note), rate


@torch.no_grad()
def reconstruct_clips(
    model: MaskedAutoencoder, batch: dict[str, Any], ratios: tuple[float, ...]
) -> list[CaptionedClips]:
    """Return the original, and the masked and the reconstructed clip at each ratio, for each clip of a batch.

    All masked tokens are predicted, whatever the decoder mask of training. The clips have the frames that the
    model predicts.
    """
    clips = batch.get("target", batch["video"]).cpu().numpy()
    sizes = model.backbone.patch_size, model.target_tubelet
    results: list[CaptionedClips] = [[("original", clip)] for clip in clips]
    settings_of_training = model.mask_ratio, model.decoder_mask
    try:
        for ratio in tqdm(ratios, desc="reconstructing", unit="ratio", disable=None, leave=False):
            model.mask_ratio, model.decoder_mask = ratio, "none"
            output = model(batch)
            reconstructions = output["reconstruction"].cpu().numpy()
            masks = output["mask"][:, model.target_tokens].cpu().numpy()
            for rows, clip, reconstruction, mask in zip(results, clips, reconstructions, masks):
                rows.append((f"{mask.mean():.0%} masked", mask_tokens(clip, mask, *sizes)))
                rows.append(("reconstructed", reconstruction))
    finally:
        model.mask_ratio, model.decoder_mask = settings_of_training
    return results


def _check_ratio(cfg: CfgNode, ratio: float) -> None:
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.MASK.RATIO = ratio
    check_config(changed)


def _clips_of_video(cfg: CfgNode, path: Path, count: int) -> dict[str, Any]:
    if not path.is_file():
        raise DataError("no such video file", path)
    dataset = EvenlySpacedClips(cfg, path, count)
    return _add_paths(dataset, collate([dataset[0, index] for index in range(count)]))


def _clips_of_dataset(cfg: CfgNode, name: str, count: int) -> dict[str, Any]:
    names = [name] if name else [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    if not names:
        raise ConfigError("DATASETS.TEST: is empty; set it, or use --dataset or --video")
    dataset = build_dataset(cfg, MaskedAutoencoder.task, names[0], training=False)
    batch = load_first_test_batch(cfg, dataset, count)
    if batch is None:
        raise DataError("none of the first videos can be read", names[0])
    return _add_paths(dataset, batch)


def _add_paths(dataset: ClipDataset, batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"path": [dataset.path_of(int(index)) for index in batch["index"]]}


def _draw_picture(clips: list[CaptionedClips], names: list[str], note: str) -> np.ndarray:
    """Draw a block of rows per clip."""
    length = clips[0][0][1].shape[1]
    columns = np.unique(np.linspace(0, length - 1, _MAX_COLUMNS).round().astype(int))
    titles = [f"frame {t}" for t in columns]
    blocks = []
    for rows, name in zip(clips, names):
        (first, clip), *others = rows
        named = [(f"{name}\n{first}", clip), *others]
        blocks.append([(text, clip_frames(clip, columns)) for text, clip in named])
    return draw_blocks(blocks, titles, note)


def _draw_animation(clips: list[CaptionedClips], note: str) -> list[np.ndarray]:
    """Draw a picture per frame of the clips, with a row per clip."""
    titles = [text for text, _ in clips[0]]
    pictures = []
    for t in range(clips[0][0][1].shape[1]):
        rows = [
            (f"clip {number}", np.concatenate([clip_frames(clip, [t]) for _, clip in rows]))
            for number, rows in enumerate(clips, start=1)
        ]
        picture = draw_rows(rows, titles)
        pictures.append(stack([picture, draw_text(note, picture.shape[1])], gap=0) if note else picture)
    return pictures
