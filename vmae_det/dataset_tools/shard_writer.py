"""Pack the videos of a dataset into tar shards in WebDataset layout: KEY.mp4, and KEY.cls for labels."""

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

_BLOCK = 512  # block size of tar files in bytes


@dataclass(frozen=True)
class _Member:
    """A video to pack: its name in the shard, its location, its size in bytes, and its label."""

    name: str
    source: VideoLocation
    size: int
    label: int

    @property
    def packed_size(self) -> int:
        header_and_end = 2 * _BLOCK
        return self.size + header_and_end * (1 if self.label == NO_CLASS else 2)


def write_shards(spec: DatasetSpec, folder: Path, size: int) -> list[Path]:
    """Pack a dataset into `folder`/videos-000000.tar, videos-000001.tar and so on, in the dataset's order.

    Shards are written atomically. An existing shard with the same videos is kept, so a run can be resumed.

    Args:
        size: maximum size of a shard in bytes, plus up to 10 kB of padding. A larger video gets its own
            shard.

    Raises:
        DataError: a video cannot be read or is a folder of frames, or two videos have the same key.
        UserError: the folder contains other shards, or shards with these names and other videos.
    """
    plan = _plan(_collect_members(spec), size)
    paths = [folder / f"videos-{number:06d}{SHARD_SUFFIX}" for number in range(len(plan))]
    others = sorted(set(folder.glob(f"*{SHARD_SUFFIX}")) - set(paths))
    if others:
        problem = f"{folder} contains other shards, such as {others[0].name}; choose another folder"
        raise UserError(f"--output: {problem}")
    total = sum(member.size for members in plan for member in members)
    with tqdm(total=total, unit="B", unit_scale=True, desc="packing", disable=None, leave=False) as bar:
        for path, members in zip(paths, plan):
            if _is_written(path, members):
                bar.update(sum(member.size for member in members))
            else:
                _write(path, members, bar)
    return paths


def _collect_members(spec: DatasetSpec) -> list[_Member]:
    files, keys, labels = _videos_of(spec)
    members, paths = [], {}
    for number in tqdm(range(len(files)), desc="finding videos", unit="video", disable=None, leave=False):
        path, key = files[number], keys[number]
        if paths.setdefault(key, path) != path:
            raise DataError(f"has the same key '{key}' as {paths[key]}", path)
        source = files.location(number)
        source = source if isinstance(source, VideoLocation) else locate_video(source)
        if source.file.is_dir():
            raise DataError("expected a video file, got a folder of frames, which cannot be packed", path)
        size = source.file.stat().st_size if source.size is None else source.size
        members.append(_Member(f"{key}{path.suffix}", source, size, labels[number]))
    return members


def _videos_of(spec: DatasetSpec) -> tuple[VideoPaths, list[str], list[int]]:
    """Return the videos of a dataset, their keys and their labels."""
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
            raise DataError(f"'{name}' is outside {spec.videos}", spec.annotations)
    keys = [key_of(name) for name in names]
    return files, keys, [NO_CLASS] * len(files) if labels is None else labels.tolist()


def _plan(members: list[_Member], size: int) -> list[list[_Member]]:
    """Return the members of each shard."""
    plan: list[list[_Member]] = []
    room = 0
    for member in members:
        if not plan or member.packed_size > room:
            plan.append([])
            room = size
        plan[-1].append(member)
        room -= member.packed_size
    return plan


def _is_written(path: Path, members: list[_Member]) -> bool:
    """Return whether a shard exists with these members, by its headers and labels; False if it is broken."""
    if not path.is_file():
        return False
    try:
        present = [(video.name, video.size, video.label) for video in scan_shard(path)]
    except DataError:
        return False
    if present != [(member.name, member.size, member.label) for member in members]:
        raise UserError(f"--output: {path} contains other videos than this dataset; choose another folder")
    return True


def _write(path: Path, members: list[_Member], bar: tqdm) -> None:
    with atomic_write(path) as temporary, tarfile.open(temporary, "w") as tar:
        for member in members:
            try:
                with member.source.file.open("rb") as file:
                    file.seek(member.source.start or 0)
                    _add(tar, member.name, member.size, file)
            except OSError as error:
                raise DataError(f"cannot be packed: {error.strerror or error}", member.source.path) from None
            if member.label != NO_CLASS:
                text = str(member.label).encode()
                _add(tar, f"{key_of(member.name)}.cls", len(text), io.BytesIO(text))
            bar.update(member.size)


def _add(tar: tarfile.TarFile, name: str, size: int, file: BinaryIO) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, file)
