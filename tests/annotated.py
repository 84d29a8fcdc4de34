"""Datasets for tests of annotation."""

from pathlib import Path

import numpy as np

from vmae_det.video.writer import VideoWriter

LABEL_MAP = """\
label { name: "stand" label_id: 1 label_type: PERSON_MOVEMENT }
label { name: "sit" label_id: 2 label_type: PERSON_MOVEMENT }
label { name: "wave" label_id: 3 label_type: PERSON_INTERACTION }
label { name: "hold" label_id: 5 label_type: OBJECT_MANIPULATION }
"""


def write_video(path: Path, seconds: float = 4.0, rate: int = 5, size: tuple[int, int] = (48, 32)) -> Path:
    width, height = size
    with VideoWriter(path, width, height, rate) as writer:
        for number in range(int(seconds * rate)):
            frame = np.full((height, width, 3), 40, np.uint8)
            frame[:, number % width] = 250
            writer.write(frame, number / rate)
    return path


def write_dataset(folder: Path, annotations: str, *, videos=(), **content) -> Path:
    """Write dataset.yaml and what it refers to; return its path."""
    (folder / "videos").mkdir(parents=True)
    for name in videos:
        write_video(folder / "videos" / f"{name}.mp4")
    (folder / "annotations.csv").write_bytes(annotations.encode())
    (folder / "actions.pbtxt").write_text(LABEL_MAP)
    lines = [
        "type: detection  # mine",
        "videos: videos",
        "annotations: annotations.csv",
        "label_map: actions.pbtxt",
    ]
    lines += [f"{key}: {value}" for key, value in content.items()]
    (folder / "dataset.yaml").write_text("\n".join(lines))
    return folder / "dataset.yaml"
