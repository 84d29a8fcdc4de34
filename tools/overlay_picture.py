#!/usr/bin/env python
"""Draw detected actions on a few frames of a video, side by side, as in the image of the README.

    python tools/overlay_picture.py --weights output/quickstart/detect_pretrained/model_final.pt \
        --dataset datasets/mini_ava/val.yaml --video cDTZhRxBsqh --at 3 6 8 --output docs/images/overlay.webp
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vmae_det.data.catalog import read_dataset_file
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.inference.predictor import ActionPredictor, read_config
from vmae_det.rendering.overlay_video import OverlayStyle, write_overlay
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.readers import open_video
from vmae_det.video.writer import VideoWriter

GAP = 8  # white columns between the frames


def main() -> None:
    """Detect actions, draw them on the enlarged video, and save the frames side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--video", required=True, help="video id in the dataset")
    parser.add_argument(
        "--at", type=float, nargs="+", required=True, help="times of the frames, in seconds of the file"
    )
    parser.add_argument("--scale", type=int, default=3, help="scale factor of the image (%(default)s)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    spec = read_dataset_file(Path(args.dataset))
    source = next(path for path in spec.videos.iterdir() if path.stem == args.video)
    with tempfile.TemporaryDirectory() as folder:
        large = _enlarge(source, Path(folder) / source.name, args.scale)
        persons = read_person_boxes(spec.person_boxes)
        detections = ActionPredictor(read_config(args.weights))(large, persons, spec.start_of(args.video))
        drawn = open_video(write_overlay(detections, Path(folder) / "drawn.mp4", OverlayStyle(timeline=True)))
        frames = drawn.frames(np.array([drawn.index_at(time) for time in args.at]))
    gap = np.full((frames.shape[1], GAP, 3), 255, dtype=np.uint8)
    picture = Image.fromarray(np.hstack([part for frame in frames for part in (gap, frame)][1:]))
    with atomic_write(args.output) as path:
        picture.save(path, quality=80)
    print(args.output)


def _enlarge(source: Path, path: Path, scale: int) -> Path:
    reader = open_video(source)
    height, width = reader.frames(np.array([0])).shape[1:3]
    with VideoWriter(path, scale * width, scale * height, reader.rate) as writer:
        for _, frame in open_video(source).stream():
            writer.write(cv2.resize(frame, (scale * width, scale * height), interpolation=cv2.INTER_CUBIC))
    return path


if __name__ == "__main__":
    main()
