"""Dataset catalog: resolve a name, a dataset file or a folder of videos to a `DatasetSpec`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.formats.label_map import builtin_label_maps, label_map_file
from vmae_det.formats.video_list import read_video_list
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.synthetic_data.mini_ava import make_mini_ava
from vmae_det.synthetic_data.mini_motion import make_mini_motion
from vmae_det.synthetic_data.mini_scenes import make_mini_scenes
from vmae_det.utils.errors import ConfigError, DataError, did_you_mean
from vmae_det.utils.input_files import read_text
from vmae_det.utils.paths import is_url, local_path
from vmae_det.utils.safe_yaml import InvalidYAMLError, load_yaml
from vmae_det.video.discovery import VideoPaths
from vmae_det.video.packed_paths import PackedPaths
from vmae_det.video.shards import Shards, find_shards

# Required keys of each type of dataset.
TYPES = {
    "videos": ("videos",),
    "classification": ("videos", "annotations"),
    "detection": ("videos", "annotations", "label_map"),
}
_LABEL_MAP_KEYS = ("label_map", "scored_classes")  # may name a built-in label map


def register_dataset_type(name: str, required: tuple[str, ...]) -> None:
    """Accept `type: NAME` in dataset files, with the keys that such a file must contain besides `videos`.

    Register the class that reads it in `DATASET_REGISTRY` as "TASK/NAME", such as "classification/NAME".
    """
    if name in TYPES:
        raise ValueError(f"dataset type '{name}' is already registered")
    TYPES[name] = tuple(dict.fromkeys(("videos", *required)))


@dataclass(frozen=True)
class DatasetSpec:
    """Description of a dataset: the fields of a dataset file, with resolved paths.

    Args:
        name: name to show in messages.
        type: "videos" (no labels), "classification" (a list of videos with labels) or "detection" (AVA's
            format).
        videos: folder of the video files, or tar shards. In detection the id of a video is its file name
            without suffix, or its KEY in a shard.
        annotations: list of videos and labels, or AVA CSV. None for shards with labels in KEY.cls files.
        label_map: label map with ids and names of the classes. In a dataset file, also the name of a built-in
            one.
        person_boxes: detected persons, for testing a detector.
        excluded: keyframes to skip in training and evaluation.
        video_start: second of the dataset's clock at which every video file starts, or a table with one
            second per video.
        scored_classes: label map of the classes that the metric evaluates; None for all of `label_map`.
        complete_persons: whether the annotations have all people of their keyframes. Otherwise a person head
            is not trained on them.
        part_of: the dataset of which it is a part or a version, whose files a person edits: a dataset file or
            a registered name; '' if it is not a part.
    """

    name: str
    type: str
    videos: Path | Shards
    annotations: Path | None = None
    label_map: Path | None = None
    person_boxes: Path | None = None
    excluded: Path | None = None
    video_start: float | VideoStarts = 0.0
    scored_classes: Path | None = None
    complete_persons: bool = True
    part_of: str = ""

    def start_of(self, video: str) -> float:
        """Return the second of the dataset's clock at which a video file starts.

        Raises:
            DataError: the table does not contain the video.
        """
        if not isinstance(self.video_start, VideoStarts):
            return self.video_start
        start = self.video_start.get(video)
        if start is None:
            raise DataError(f"no line for the video '{video}'", self.video_start.path)
        return start

    def labeled_videos(self) -> tuple[VideoPaths, np.ndarray]:
        """Return the videos of a classification dataset and their class indices, int64 (n,).

        They come from the list of videos, or, without one, from the KEY.cls files of the shards. Names in the
        list are relative to the folder `videos`, or SHARD.tar/KEY.mp4.

        Raises:
            DataError: the list is malformed, or the shards do not contain a listed video.
        """
        sharded = isinstance(self.videos, Shards)
        if self.annotations is None:
            return self.videos.videos, self.videos.videos.labels()
        listed = read_video_list(self.annotations)
        if not sharded:
            return PackedPaths(self.videos, listed.names), listed.labels
        known = self.videos.videos.numbers_by_name()
        for name, line in zip(listed.names, listed.lines.tolist()):
            if name not in known:
                problem = f"expected SHARD.tar/KEY.mp4 of {self.videos}, got '{name}'"
                raise DataError(problem, self.annotations, line)
        return self.videos.videos.select([known[name] for name in listed.names]), listed.labels


@dataclass(frozen=True)
class CatalogEntry:
    """A named dataset: the content of its dataset file, or the path of that file.

    Args:
        content: fields of `DatasetSpec`, with paths relative to the root of all datasets.
        file: path of a dataset file relative to the root, instead of `content`.
        prepare: called with the root before each use, to create missing data.
        optional: keys of `content` to drop if their file does not exist.
        made_by: the command that creates `file`.
    """

    content: dict[str, Any] | None = None
    file: str | None = None
    prepare: Callable[[Path], object] | None = None
    optional: tuple[str, ...] = ()
    made_by: str = ""

    def __post_init__(self) -> None:
        if (self.content is None) == (self.file is None):
            raise ValueError("a CatalogEntry takes either content or file")


_CATALOG: dict[str, CatalogEntry] = {}


def register_dataset(name: str, entry: CatalogEntry) -> None:
    """Register a dataset under a name."""
    if name in _CATALOG:
        raise ValueError(f"dataset '{name}' is already registered")
    _CATALOG[name] = entry


def dataset_names() -> list[str]:
    """Return the names of all registered datasets."""
    return sorted(_CATALOG)


def is_generated_later(name: str, root: str = "") -> bool:
    """Return whether `name` is a dataset that its first use will create, such as a synthetic one."""
    entry = _CATALOG.get(name)
    if entry is None or entry.prepare is None or entry.file is None:
        return False
    return not (datasets_root(root) / entry.file).exists()


def datasets_root(root: str = "") -> Path:
    """Return the root of registered datasets: `root`, $VMAE_DET_DATASETS or ./datasets."""
    return Path(root or os.environ.get("VMAE_DET_DATASETS", "datasets"))


def get_dataset(name: str, root: str = "", option: str = "DATASETS") -> DatasetSpec:
    """Return a dataset.

    Args:
        name: a registered name, a dataset file (.yaml), a folder of videos, or tar shards (`find_shards`).
        root: root of registered datasets (see `datasets_root`).
        option: config key or command line option that contains the name, for the error message.

    Raises:
        ConfigError: `name` is none of these.
        DataError: a dataset file is invalid, or refers to a file that does not exist.
    """
    if name in _CATALOG:
        entry, base = _CATALOG[name], datasets_root(root)
        if entry.prepare is not None:
            entry.prepare(base)
        if entry.file is not None:
            if entry.made_by and not (base / entry.file).exists():
                problem = f"dataset '{name}': file does not exist; run `{entry.made_by}` to create it"
                raise DataError(f"{problem} (see docs/guides/datasets/index.md)", base / entry.file)
            return read_dataset_file(base / entry.file, name)
        content = {
            key: value
            for key, value in entry.content.items()
            if key not in entry.optional or (base / value).exists()
        }
        return _make_spec(content, base, name, source=f"registered dataset '{name}'")
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return read_dataset_file(path)
    shards = find_shards(name)
    if shards is not None or path.is_dir():
        return DatasetSpec(name=name, type="videos", videos=shards or path)
    raise ConfigError(
        f"{option}: '{name}' is neither a registered dataset, nor a dataset file (.yaml), "
        f"nor a folder of videos, nor tar shards{did_you_mean(name, dataset_names())}"
    )


def read_dataset_file(path: Path, name: str | None = None) -> DatasetSpec:
    """Read a dataset file. Its paths are relative to the file. Label maps may be names of built-in ones."""
    try:
        content = load_yaml(read_text(path, "a dataset file"))
    except InvalidYAMLError as error:
        raise DataError(str(error), path, error.line) from None
    if not isinstance(content, dict):
        raise DataError("expected a mapping with the keys type, videos, annotations, ...", path)
    return _make_spec(content, path.parent, name or str(path), source=str(path))


def _make_spec(content: dict[str, Any], base: Path, name: str, source: str) -> DatasetSpec:
    known = [field.name for field in fields(DatasetSpec) if field.name != "name"]
    for key in content:
        if key not in known:
            raise DataError(f"unknown key '{key}'{did_you_mean(str(key), known)}", source)
    kind = content.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise DataError(f"type: expected one of {', '.join(TYPES)}, got {kind!r}", source)
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key == "video_start":
            values[key] = _parse_video_start(value, base, source)
        elif key == "complete_persons":
            if not isinstance(value, bool):
                raise DataError(f"complete_persons: expected true or false, got {value!r}", source)
            values[key] = value
        elif key == "part_of":
            if not isinstance(value, str) or not value:
                raise DataError(f"part_of: expected a dataset file or a name, got {value!r}", source)
            values[key] = value if value in _CATALOG else str(base / os.path.expanduser(value))
        elif key == "videos" and value:
            shards = find_shards(os.path.expanduser(str(value)), base)
            values[key] = shards or _resolve_path(key, value, base, source)
            if isinstance(values[key], Path) and not values[key].is_dir():
                raise DataError(f"videos: {values[key]} is a file; expected a folder or tar shards", source)
        elif key != "type" and value:
            values[key] = _resolve_path(key, value, base, source)
    has_labels = kind == "classification" and isinstance(values.get("videos"), Shards)  # in KEY.cls
    for key in TYPES[kind]:
        if key not in values and not (key == "annotations" and has_labels):
            raise DataError(f"{key}: missing; it is required for type '{kind}'", source)
    return DatasetSpec(name=name, type=kind, **values)


def _resolve_path(key: str, value: Any, base: Path, source: str) -> Path:
    """Return a local file or folder. URLs are downloaded."""
    if is_url(str(value)):
        return local_path(str(value))
    path = base / os.path.expanduser(str(value))
    if not path.exists():
        if key in _LABEL_MAP_KEYS and value in builtin_label_maps():
            return label_map_file(value)
        hint = "" if base.exists() else f" (the folder {base} does not exist either)"
        raise DataError(f"{key}: {path} does not exist{hint}", source)
    return path


def _parse_video_start(value: Any, base: Path, source: str) -> float | VideoStarts:
    if type(value) in (int, float):
        return float(value)
    if isinstance(value, str) and value.endswith(".csv"):
        return VideoStarts(local_path(value) if is_url(value) else base / os.path.expanduser(value))
    raise DataError(f"video_start: expected seconds or a table (.csv), got {value!r}", source)


# Synthetic datasets: the folder below the root, the function that generates it, and its dataset files.
_SYNTHETIC = {
    "mini_ava": (make_mini_ava, ("train", "val", "clips_train", "clips_val", "unlabelled")),
    "mini_motion": (make_mini_motion, ("train", "val", "unlabelled")),
    "mini_scenes": (make_mini_scenes, ("train", "val")),
}


def _register_synthetic() -> None:
    for folder, (make, files) in _SYNTHETIC.items():
        for name in files:
            entry = CatalogEntry(
                file=f"{folder}/{name}.yaml",
                prepare=lambda root, make=make, folder=folder: make(root / folder),
            )
            register_dataset(f"{folder}_{name}", entry)


def _register_classification() -> None:
    for split in ("train", "val"):
        for name in ("kinetics400", "kinetics600", "kinetics700", "something_something_v2"):
            register_dataset(f"{name}_{split}", _classification(name, split))
        for name in ("ucf101", "hmdb51"):
            register_dataset(f"{name}_{split}", _classification(name, f"split1_{split}"))
            for number in (1, 2, 3):
                part = f"split{number}_{split}"
                register_dataset(f"{name}_{part}", _classification(name, part))


def _classification(folder: str, list_name: str) -> CatalogEntry:
    content = {
        "type": "classification",
        "videos": f"{folder}/videos",
        "annotations": f"{folder}/{list_name}.csv",
        "label_map": f"{folder}/label_map.pbtxt",
    }
    return CatalogEntry(content, optional=("label_map",))


# For each name: the folder of its train.yaml and val.yaml below the root, and the argument of
# `vmae-det prepare` that creates it.
_PREPARED = {
    "ava_v2.2": ("ava/movies", "ava"),
    "ava_v2.2_cuts": ("ava/cuts", "ava"),
    "ava_v2.2_frames": ("ava/frames", "ava"),
    "ava_kinetics": ("ava_kinetics", "ava_kinetics"),
    "ucf101_24": ("ucf101_24", "ucf101_24"),
    "jhmdb": ("jhmdb/split1", "jhmdb"),
    "multisports": ("multisports", "multisports"),
}
for _split in (1, 2, 3):
    _PREPARED[f"jhmdb_split{_split}"] = (f"jhmdb/split{_split}", "jhmdb")


def _register_prepared() -> None:
    for name, (folder, command) in _PREPARED.items():
        for part in ("train", "val"):
            entry = CatalogEntry(file=f"{folder}/{part}.yaml", made_by=f"vmae-det prepare {command}")
            register_dataset(f"{name}_{part}", entry)


_register_synthetic()
_register_classification()
_register_prepared()
