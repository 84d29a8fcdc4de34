"""What a masked autoencoder makes of clips at several mask ratios, as in the VideoMAE paper's figures."""

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
from vmae_det.engine.setup import build_model_with_weights, choose_device
from vmae_det.engine.trainer import to_device
from vmae_det.modeling import MaskedAutoencoder, model_class
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.sampling import evenly_spaced_clip
from vmae_det.visualization.frame_rows import draw_blocks, draw_rows, draw_text, frames_of, stack
from vmae_det.visualization.reconstruction import mask_cubes

RATIOS = (0.75, 0.9, 0.95)  # those of the paper's figures
PLAY_RATE = 25.0  # frames a second that videos of a dataset are taken to have
_MOST_COLUMNS = 8
_NORMALISED = (
    "The model predicts cubes less their mean, over their deviation. Both are taken from the true pixels "
    "here: brightness, colour and contrast of a cube are given, its pattern is predicted."
)

Rows = list[tuple[str, np.ndarray]]  # captions and clips uint8 (3, T, H, W)


class ClipsOfVideo(UnlabeledVideos):
    """`count` clips, spread evenly over one video file, in the form of a pre-training test set."""

    def __init__(self, cfg: CfgNode, path: Path, count: int) -> None:
        super().__init__(cfg, DatasetSpec(str(path), "videos", path), training=False)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def path_of(self, index: int) -> Path:
        """The video."""
        return self.files[0]

    def load_test(self, index: int) -> tuple[Clip, dict[str, Any]]:
        """The centre of clip `index`."""
        reader = self.open(self.files.location(0))
        frames = evenly_spaced_clip(len(reader), *self.own, index, self.count)
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
    """Reconstructions of `count` clips of a video, or of the first videos of a dataset that can be read.

    Args:
        cfg: of a MaskedAutoencoder; MODEL.WEIGHTS names its weights.
        ratios: of masks, which grow out of each other.
        video: a file, whose clips are spread evenly.
        dataset: where there is no `video`: a name; without one, that of DATASETS.TEST or TRAIN.

    Returns:
        A picture, the frames of an animation, uint8 RGB (H, W, 3) each, and their number in a second.

    Raises:
        ConfigError: the model is no autoencoder, or a ratio leaves nothing to see or to predict.
        DataError: no video can be read.
    """
    if model_class(cfg) is not MaskedAutoencoder:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: reconstruction needs a MaskedAutoencoder, got "
            f"{cfg.MODEL.META_ARCHITECTURE}"
        )
    for ratio in ratios:
        _check_ratio(cfg, ratio)
    batch = _clips_of_video(cfg, video, count) if video else _clips_of_dataset(cfg, dataset, count)
    device = choose_device(cfg)
    model = build_model_with_weights(cfg, complete=True).to(device).eval()
    clips = reconstruct_clips(model, to_device(batch, device), ratios)
    names = [Path(path).name for path in batch["path"]]
    note = _NORMALISED if cfg.MODEL.RECONSTRUCTION.NORMALIZE else ""
    rate = PLAY_RATE / (cfg.MODEL.RECONSTRUCTION.SAMPLING_RATE or cfg.INPUT.SAMPLING_RATE)
    return _picture(clips, names, note), _animation(clips, note), rate


@torch.no_grad()
def reconstruct_clips(
    model: MaskedAutoencoder, batch: dict[str, Any], ratios: tuple[float, ...]
) -> list[Rows]:
    """For each clip of a batch: the frames to predict, then masked and reconstructed at each ratio.

    All masked cubes are predicted, whatever the decoder's mask of training.
    """
    clips = batch.get("target", batch["video"]).cpu().numpy()
    sizes = model.backbone.patch_size, model.target_tubelet
    found: list[Rows] = [[("original", clip)] for clip in clips]
    trained = model.mask_ratio, model.decoder_mask
    try:
        for ratio in tqdm(ratios, desc="reconstructing", unit="ratio", disable=None, leave=False):
            model.mask_ratio, model.decoder_mask = ratio, "none"
            predictions = model(batch)
            painted = predictions["reconstruction"].cpu().numpy()
            masks = predictions["mask"][:, model.target_tokens].cpu().numpy()
            for rows, clip, result, mask in zip(found, clips, painted, masks):
                rows.append((f"{mask.mean():.0%} masked", mask_cubes(clip, mask, *sizes)))
                rows.append(("reconstructed", result))
    finally:
        model.mask_ratio, model.decoder_mask = trained
    return found


def _check_ratio(cfg: CfgNode, ratio: float) -> None:
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.MASK.RATIO = ratio
    check_config(changed)


def _clips_of_video(cfg: CfgNode, path: Path, count: int) -> dict[str, Any]:
    if not path.is_file():
        raise DataError("no such video file", path)
    dataset = ClipsOfVideo(cfg, path, count)
    return _with_paths(dataset, collate([dataset[0, index] for index in range(count)]))


def _clips_of_dataset(cfg: CfgNode, name: str, count: int) -> dict[str, Any]:
    names = [name] if name else [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    if not names:
        raise ConfigError("DATASETS.TEST: names no dataset; give one by --dataset, or a file by --video")
    dataset = build_dataset(cfg, MaskedAutoencoder.task, names[0], training=False)
    batch = load_first_test_batch(cfg, dataset, count)
    if batch is None:
        raise DataError("none of the first videos can be read", names[0])
    return _with_paths(dataset, batch)


def _with_paths(dataset: ClipDataset, batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"path": [dataset.path_of(int(index)) for index in batch["index"]]}


def _picture(clips: list[Rows], names: list[str], note: str) -> np.ndarray:
    """A block of rows for each clip."""
    length = clips[0][0][1].shape[1]
    columns = np.unique(np.linspace(0, length - 1, _MOST_COLUMNS).round().astype(int))
    titles = [f"frame {t}" for t in columns]
    blocks = []
    for rows, name in zip(clips, names):
        (first, clip), *others = rows
        named = [(f"{name}\n{first}", clip), *others]
        blocks.append([(text, frames_of(clip, columns)) for text, clip in named])
    return draw_blocks(blocks, titles, note)


def _animation(clips: list[Rows], note: str) -> list[np.ndarray]:
    """A row for each clip, a column for each kind of picture; one frame of the clips at a time."""
    titles = [text for text, _ in clips[0]]
    pictures = []
    for t in range(clips[0][0][1].shape[1]):
        rows = [
            (f"clip {number}", np.concatenate([frames_of(clip, [t]) for _, clip in rows]))
            for number, rows in enumerate(clips, start=1)
        ]
        picture = draw_rows(rows, titles)
        pictures.append(stack([picture, draw_text(note, picture.shape[1])], gap=0) if note else picture)
    return pictures
