"""Pack the videos of a dataset into tar shards of webdataset's layout: KEY.mp4, and with labels KEY.cls."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from vmae_det.data.catalog import DatasetSpec
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.file_types import SHARD_SUFFIX
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.discovery import VideoPaths, find_videos, resolve_video_ids
from vmae_det.video.packed_paths import PackedPaths
from vmae_det.video.readers.base import VideoLocation, locate_video
from vmae_det.video.readers.tar_shard import NO_CLASS, key_of, scan_shard

_BLOCK = 512  # bytes, of which tar files are made


@dataclass(frozen=True)
class _Item:
    """A video to pack: its member's name, where its bytes lie, how many they are, and its label."""

    name: str
    source: VideoLocation
    size: int
    label: int

    @property
    def packed_size(self) -> int:
        header_and_end = 2 * _BLOCK
        return self.size + header_and_end * (1 if self.label == NO_CLASS else 2)


def write_shards(spec: DatasetSpec, folder: Path, size: int) -> list[Path]:
    """Pack a dataset into `folder`/videos-000000.tar, ..., in the dataset's order; each is written whole or
    not at all, and one that is there already with the same videos is kept.

    Args:
        size: bytes that a shard shall have at most, but for ten kilobytes of padding; a larger video has a
            shard of its own.

    Raises:
        DataError: a video cannot be read, is a folder of frames, or two would have the same key.
        UserError: the folder holds other shards, or other videos in those of these names.
    """
    plan = _plan(_items(spec), size)
    paths = [folder / f"videos-{number:06d}{SHARD_SUFFIX}" for number in range(len(plan))]
    others = sorted(set(folder.glob(f"*{SHARD_SUFFIX}")) - set(paths))
    if others:
        problem = f"{folder} holds other shards, such as {others[0].name}; name another folder"
        raise UserError(f"--output: {problem}")
    total = sum(item.size for items in plan for item in items)
    with tqdm(total=total, unit="B", unit_scale=True, desc="packing", disable=None, leave=False) as bar:
        for path, items in zip(paths, plan):
            if _is_done(path, items):
                bar.update(sum(item.size for item in items))
            else:
                _write(path, items, bar)
    return paths


def _items(spec: DatasetSpec) -> list[_Item]:
    files, keys, labels = _videos_of(spec)
    items, paths = [], {}
    for number in tqdm(range(len(files)), desc="looking for videos", unit="video", disable=None, leave=False):
        path, key = files[number], keys[number]
        if paths.setdefault(key, path) != path:
            raise DataError(f"has the same key '{key}' as {paths[key]}", path)
        source = files.location(number)
        source = source if isinstance(source, VideoLocation) else locate_video(source)
        if source.file.is_dir():
            raise DataError("a folder of frames; videos alone can be packed", path)
        size = source.file.stat().st_size if source.size is None else source.size
        items.append(_Item(f"{key}{path.suffix}", source, size, labels[number]))
    return items


def _videos_of(spec: DatasetSpec) -> tuple[VideoPaths, list[str], list[int]]:
    """The videos of a dataset, their keys and their labels."""
    if spec.type == "detection":
        ids = read_action_csv(spec.annotations, unknown_actions="ignore").videos
        return resolve_video_ids(ids, spec.videos), [str(video) for video in ids], [NO_CLASS] * len(ids)
    if spec.type == "classification":
        files, labels = spec.labeled_videos()
    else:
        files, labels = find_videos(spec.videos), None
    names = list(files.names) if isinstance(files, PackedPaths) else [name for _, name in files.members()]
    for name in names:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise DataError(f"'{name}' lies outside of {spec.videos}", spec.annotations)
    keys = [key_of(name) for name in names]
    return files, keys, [NO_CLASS] * len(files) if labels is None else labels.tolist()


def _plan(items: list[_Item], size: int) -> list[list[_Item]]:
    """The videos of each shard."""
    plan: list[list[_Item]] = []
    room = 0
    for item in items:
        if not plan or item.packed_size > room:
            plan.append([])
            room = size
        plan[-1].append(item)
        room -= item.packed_size
    return plan


def _is_done(path: Path, items: list[_Item]) -> bool:
    """Whether a shard is there, by its headers and labels; one that is broken is not."""
    if not path.is_file():
        return False
    try:
        there = [(video.name, video.size, video.label) for video in scan_shard(path)]
    except DataError:
        return False
    if there != [(item.name, item.size, item.label) for item in items]:
        raise UserError(f"--output: {path} holds other videos than it would now; name another folder")
    return True


def _write(path: Path, items: list[_Item], bar: tqdm) -> None:
    with atomic_write(path) as temporary, tarfile.open(temporary, "w") as tar:
        for item in items:
            try:
                with item.source.file.open("rb") as file:
                    file.seek(item.source.start or 0)
                    _add(tar, item.name, item.size, file)
            except OSError as error:
                raise DataError(f"cannot be packed: {error.strerror or error}", item.source.path) from None
            if item.label != NO_CLASS:
                text = str(item.label).encode()
                _add(tar, f"{key_of(item.name)}.cls", len(text), io.BytesIO(text))
            bar.update(item.size)


def _add(tar: tarfile.TarFile, name: str, size: int, file: BinaryIO) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, file)
