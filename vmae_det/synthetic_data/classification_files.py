"""Write the dataset files of a synthetic classification dataset: label map, lists of videos, YAML files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.synthetic_data.text_files import first_line, write_lines, write_text

_YAML = """\
# {title}
type: classification  # one class per video
# Folder to which the paths in the list are relative.
videos: .
# Lines of "path label"; the label is the index of the class in the label map, from 0 on.
annotations: annotations/{split}.csv
# Names and ids of the classes.
label_map: annotations/classes.pbtxt
"""
_UNLABELLED_YAML = """\
# {title}
type: videos  # videos without labels
# Folder of the video files.
videos: {videos}
"""


def write_classes(folder: Path, names: Sequence[str]) -> None:
    """Write the label map. Ids start at 1, as in AVA."""
    ids = tuple(range(1, len(names) + 1))
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    write_label_map(folder / "annotations/classes.pbtxt", LabelMap(ids, tuple(names), ("",) * len(names)))


def write_split(folder: Path, split: str, title: str, videos: Iterable[tuple[str, int]]) -> None:
    """Write the list of labeled videos of a split, and its dataset file.

    Args:
        videos: path relative to `folder`, and index of the class.
    """
    write_lines(folder / f"annotations/{split}.csv", [f"{path} {label}" for path, label in videos])
    write_text(folder / f"{split}.yaml", _YAML.format(title=title, split=split))


def write_unlabelled(folder: Path, name: str, title: str, videos: str) -> None:
    """Write the dataset file of the videos in the folder `videos`, relative to `folder`."""
    write_text(folder / f"{name}.yaml", _UNLABELLED_YAML.format(title=title, videos=videos))


def write_readme(folder: Path, text: str, names: Sequence[str], size: tuple[int, int], rate: int) -> None:
    """Write README.md, after the list of training videos.

    Args:
        text: format string with the fields width, height, fps, example and classes.
        size: width and height of the videos.
        rate: frames per second.
    """
    width, height = size
    readme = text.format(
        width=width,
        height=height,
        fps=rate,
        example=first_line(folder / "annotations/train.csv"),
        classes="\n".join(f"{number}. {name}" for number, name in enumerate(names, 1)),
    )
    write_text(folder / "README.md", readme)
