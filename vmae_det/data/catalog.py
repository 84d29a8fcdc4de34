"""From a name, a dataset file or a folder of videos to a DatasetSpec: what the data are and where they
lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.formats.video_list import read_video_list
from vmae_det.formats.video_starts import VideoStarts
from vmae_det.mini_ava import make_mini_ava
from vmae_det.utils.errors import ConfigError, DataError, did_you_mean
from vmae_det.utils.input_files import read_text
from vmae_det.utils.paths import is_url, local_path
from vmae_det.utils.safe_yaml import InvalidYAMLError, load_yaml
from vmae_det.video.discovery import VideoPaths
from vmae_det.video.packed_paths import PackedPaths
from vmae_det.video.shards import Shards, find_shards

# What a dataset of each type must name.
TYPES = {
    "videos": ("videos",),
    "classification": ("videos", "annotations"),
    "detection": ("videos", "annotations", "label_map"),
}


def register_dataset_type(name: str, required: tuple[str, ...]) -> None:
    """Accept `type: NAME` in dataset files, with the keys that such a file must contain.

    Register the class that reads it in `DATASET_REGISTRY` as "TASK/NAME", such as "classification/NAME".
    """
    if name in TYPES:
        raise ValueError(f"dataset type '{name}' is already registered")
    TYPES[name] = required


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset is made of; the fields of a dataset file, with its paths resolved.

    Args:
        type: "videos" (no labels), "classification" (a list of videos with labels) or "detection" (AVA's
        form).
        videos: folder of the video files, or tar shards; in detection, a file's name without suffix, in
            shards its KEY, is the video's id.
        annotations: list of videos and labels, or AVA CSV; None with shards, whose KEY.cls hold the labels.
        label_map: pbtxt with ids and names of the classes.
        person_boxes: detected persons, for testing a detector.
        excluded: keyframes left out of training and evaluation.
        video_start: second of the dataset's clock at which every video file starts; or each, as a table.
        scored_classes: label map of the classes that the metric looks at; without, all of `label_map`.
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

    def start_of(self, video: str) -> float:
        """Second of the dataset's clock at which a video's file starts; DataError if the table lacks it."""
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
    """A named dataset: its dataset file's content, with paths under the root of all datasets, or that file.

    Args:
        content: fields of DatasetSpec, paths relative to the root.
        file: a dataset file relative to the root, instead of `content`.
        prepare: called with the root before use; makes the data where they are missing.
        optional: keys of `content` that are left out where their file is missing.
        made_by: the command that makes `file`.
    """

    content: dict[str, Any] | None = None
    file: str | None = None
    prepare: Callable[[Path], object] | None = None
    optional: tuple[str, ...] = ()
    made_by: str = ""

    def __post_init__(self) -> None:
        if (self.content is None) == (self.file is None):
            raise ValueError("a dataset of the catalog takes either content or file")


_CATALOG: dict[str, CatalogEntry] = {}


def register_dataset(name: str, entry: CatalogEntry) -> None:
    """Make `entry` known as `name`."""
    if name in _CATALOG:
        raise ValueError(f"dataset '{name}' is registered already")
    _CATALOG[name] = entry


def dataset_names() -> list[str]:
    """All names of the catalog."""
    return sorted(_CATALOG)


def datasets_root(root: str = "") -> Path:
    """Where the catalog's datasets lie: `root`, else $VMAE_DET_DATASETS, else ./datasets."""
    return Path(root or os.environ.get("VMAE_DET_DATASETS", "datasets"))


def get_dataset(name: str, root: str = "") -> DatasetSpec:
    """The dataset called `name`: a name of the catalog, a dataset file (.yaml), a folder of videos, or tar
    shards (see `find_shards`).

    Raises:
        ConfigError: nothing is known under this name.
        DataError: a dataset file says something impossible, or names a file that is not there.
    """
    if name in _CATALOG:
        entry, base = _CATALOG[name], datasets_root(root)
        if entry.prepare is not None:
            entry.prepare(base)
        if entry.file is not None:
            if entry.made_by and not (base / entry.file).exists():
                problem = f"dataset '{name}': this file does not exist; `{entry.made_by}` makes it"
                raise DataError(f"{problem} (datasets/README.md)", base / entry.file)
            return read_dataset_file(base / entry.file, name)
        content = {
            key: value
            for key, value in entry.content.items()
            if key not in entry.optional or (base / value).exists()
        }
        return _make_spec(content, base, name, source=f"dataset '{name}' of the catalog")
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return read_dataset_file(path)
    shards = find_shards(name)
    if shards is not None or path.is_dir():
        return DatasetSpec(name=name, type="videos", videos=shards or path)
    raise ConfigError(
        f"DATASETS: '{name}' is neither a dataset of the catalog, nor a dataset file (.yaml), "
        f"nor a folder of videos, nor tar shards{did_you_mean(name, dataset_names())}"
    )


def read_dataset_file(path: Path, name: str | None = None) -> DatasetSpec:
    """The dataset that a YAML file describes; its paths are relative to the file."""
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
    if kind not in TYPES:
        raise DataError(f"type: expected one of {', '.join(TYPES)}, got {kind!r}", source)
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key == "video_start":
            values[key] = _video_start(value, base, source)
        elif key == "videos" and value:
            values[key] = find_shards(str(value), base) or _file(key, value, base, source)
            if isinstance(values[key], Path) and not values[key].is_dir():
                raise DataError(f"videos: {values[key]} is a file; expected a folder, or tar shards", source)
        elif key != "type" and value:
            values[key] = _file(key, value, base, source)
    labelled = kind == "classification" and isinstance(values.get("videos"), Shards)  # by their KEY.cls
    for key in TYPES[kind]:
        if key not in values and not (key == "annotations" and labelled):
            raise DataError(f"{key}: missing; a dataset of type '{kind}' needs it", source)
    return DatasetSpec(name=name, type=kind, **values)


def _file(key: str, value: Any, base: Path, source: str) -> Path:
    """A file or folder on this machine; what is elsewhere is fetched."""
    if is_url(str(value)):
        return local_path(str(value))
    path = base / str(value)
    if not path.exists():
        hint = "" if base.exists() else f" (the folder {base} itself does not exist)"
        raise DataError(f"{key}: {path} does not exist{hint}", source)
    return path


def _video_start(value: Any, base: Path, source: str) -> float | VideoStarts:
    if type(value) in (int, float):
        return float(value)
    if isinstance(value, str) and value.endswith(".csv"):
        return VideoStarts(local_path(value) if is_url(value) else base / value)
    raise DataError(f"video_start: expected seconds, got {value!r}; or a table of them (.csv)", source)


def _register_builtin() -> None:
    for split in ("train", "val", "clips_train", "clips_val", "unlabelled"):
        entry = CatalogEntry(
            file=f"mini_ava/{split}.yaml", prepare=lambda root: make_mini_ava(root / "mini_ava")
        )
        register_dataset(f"mini_ava_{split}", entry)
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


# Name to the folder under the root with its train.yaml and val.yaml, and what `vmae-det prepare` calls it.
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


_register_builtin()
_register_prepared()
