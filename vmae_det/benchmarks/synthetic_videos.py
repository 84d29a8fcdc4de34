"""Synthetic H.264 videos, datasets of such videos, and random clips, for the benchmarks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.modeling import model_class
from vmae_det.modeling.build import PRETRAINING_TASKS
from vmae_det.video.writer import VideoWriter

RATE = 30  # frames per second

_DATASET = """type: {type}
videos: videos
annotations: annotations.csv
label_map: label_map.pbtxt
"""


def write_videos(
    folder: Path, width: int, height: int, gop: int, count: int = 8, seconds: float = 10.0
) -> None:
    """Write `count` videos at 30 frames per second: the camera pans over a texture, four objects move.

    Args:
        gop: frames from one I-frame to the next.
    """
    for number in range(count):
        rng = np.random.default_rng(number)
        frames = int(seconds * RATE)
        background = _texture(rng, height + 64, width + frames)
        objects = [_texture(rng, height // 4, height // 4) for _ in range(4)]
        starts = rng.uniform(0, 0.7, (4, 2)) * [height, width]
        speeds = rng.uniform(-2, 2, (4, 2)) * height / 256
        file = folder / f"{number:03d}.mp4"
        with VideoWriter(file, width, height, Fraction(RATE), key_every=gop) as writer:
            for t in range(frames):
                top = int(32 + 16 * np.sin(t / 20))
                frame = background[top : top + height, t : t + width].copy()
                for texture, (y, x), (vy, vx) in zip(objects, starts, speeds):
                    side = len(texture)
                    y, x = int(y + vy * t) % (height - side), int(x + vx * t) % (width - side)
                    frame[y : y + side, x : x + side] = texture
                writer.write(frame)


def write_dataset(folder: Path, width: int, height: int, gop: int, cfg: CfgNode) -> Path:
    """Write the videos of `write_videos` as training data of a config, with labels if its task needs them.

    Returns:
        path for DATASETS.TRAIN.
    """
    task = model_class(cfg).task
    videos = folder / "videos"
    write_videos(videos, width, height, gop)
    if task in PRETRAINING_TASKS:
        return videos
    if task == "classification":
        lines = [f"{path.name} 0" for path in sorted(videos.iterdir())]
        classes = cfg.MODEL.CLASSIFIER.NUM_CLASSES
    else:
        persons = ("0.1,0.1,0.4,0.9,1,0", "0.5,0.2,0.9,1.0,2,1")
        keyframes = [(path.stem, second) for path in sorted(videos.iterdir()) for second in range(1, 10)]
        lines = [f"{video},{second},{person}" for video, second in keyframes for person in persons]
        classes = cfg.MODEL.ROI_HEAD.NUM_CLASSES
    items = [f'item {{\n  name: "action {number}"\n  id: {number}\n}}' for number in range(1, classes + 1)]
    (folder / "label_map.pbtxt").write_text("\n".join(items) + "\n", encoding="utf-8")
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "dataset.yaml").write_text(_DATASET.format(type=task), encoding="utf-8")
    return folder / "dataset.yaml"


def random_clips(cfg: CfgNode, count: int) -> list[dict[str, torch.Tensor]]:
    """Return training samples of noise: `video`, `seed`, and what the task of the config needs.

    Pre-training adds `target` if other frames are predicted, or `video2` for MoCo v3; classification `label`;
    and detection one to four persons: `boxes` and `labels`.
    """
    generator = torch.Generator().manual_seed(0)
    side, task = cfg.INPUT.CROP_SIZE, model_class(cfg).task
    frames = {"video": cfg.INPUT.NUM_FRAMES}
    if task == "pretraining" and cfg.MODEL.RECONSTRUCTION.NUM_FRAMES:
        frames["target"] = cfg.MODEL.RECONSTRUCTION.NUM_FRAMES
    if task == "contrastive":
        frames["video2"] = cfg.INPUT.NUM_FRAMES
    samples = []
    for clip in range(count):
        sample = {
            name: torch.randint(0, 256, (3, number, side, side), generator=generator, dtype=torch.uint8)
            for name, number in frames.items()
        }
        sample["seed"] = torch.tensor(clip)
        if task == "classification":
            sample["label"] = torch.tensor(clip % cfg.MODEL.CLASSIFIER.NUM_CLASSES)
        elif task == "detection":
            persons, classes = 1 + clip % 4, cfg.MODEL.ROI_HEAD.NUM_CLASSES
            sample["boxes"] = torch.tensor([0.2, 0.1, 0.6, 0.9]).repeat(persons, 1) * side
            sample["labels"] = (torch.rand(persons, classes, generator=generator) < 0.1).float()
        samples.append(sample)
    return samples


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return smooth colors with some grain, uint8 (height, width, 3)."""
    coarse = rng.uniform(0, 255, (height // 24 + 2, width // 24 + 2, 3)).astype(np.float32)
    fine = rng.uniform(-40, 40, (height // 3 + 2, width // 3 + 2, 3)).astype(np.float32)
    layers = [cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) for layer in (coarse, fine)]
    return sum(layers).clip(0, 255).astype(np.uint8)
