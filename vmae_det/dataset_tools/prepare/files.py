"""Find official files and videos, link folders, and write tables and label maps."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.file_types import VIDEO_SUFFIXES
from vmae_det.utils.input_files import read_text
from vmae_det.utils.output_files import atomic_write, write_text
from vmae_det.video.discovery import has_images, unique_path


def require_file(folder: Path, *names: str) -> Path:
    """Return the first of `names` that is a file in `folder`; DataError if there is none."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"expected the file {' or '.join(names)} in this folder", folder)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return number (from 1) and stripped text of each line that is not blank; DataError if unreadable."""
    lines = read_text(path, "text").splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


class VideoIndex:
    """The videos in a folder and its subfolders, by file name without suffix. Links to folders are followed.

    Raises:
        DataError: the folder does not exist, or has no videos.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, list[str]] = defaultdict(list)
        for path in sorted(_iterate_videos(folder)):
            self._paths[Path(path).stem].append(path)
        if not self._paths:
            raise DataError("expected a folder of videos, got none in it and its subfolders", folder)

    def paths(self) -> list[str]:
        """Return all videos, relative to the folder."""
        return [path for several in self._paths.values() for path in several]

    def find(self, stem: str, *preferred: str) -> str | None:
        """Return the path of a video relative to the folder; None if there is none.

        Of several videos with this name, the one below a folder with a `preferred` name is used; earlier
        names have priority.

        Raises:
            DataError: the name is ambiguous: there are two such videos, or also a folder of images.
        """
        paths = self._paths.get(stem, [])
        for parent in preferred:
            below = [path for path in paths if parent in path.split("/")[:-1]]
            if below:
                paths = below
                break
        found = [self._folder / path for path in paths]
        image_folders = [path.parent / stem for path in found if has_images(path.parent / stem)]
        if not found:
            return None
        return unique_path(stem, found + image_folders, self._folder).relative_to(self._folder).as_posix()


def _iterate_videos(folder: Path) -> Iterator[str]:
    seen = set()
    for current, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in seen:  # a cycle of links
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        base = Path(os.path.relpath(current, folder))
        for name in files:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield (base / name).as_posix()


def check_link(target: Path, link: Path) -> None:
    """Raise a UserError if `link_folder` would fail; call this before long work."""
    if link.exists() and not link.is_symlink() and link.resolve() != target.resolve():
        raise UserError(f"{link}: a folder with this name already exists; move it, or pass it as --videos")


def link_folder(target: Path, link: Path) -> None:
    """Make `link` a symbolic link to the folder `target`, unless it is that folder.

    A link to another folder is replaced; a folder never is.
    """
    check_link(target, link)
    if link.exists() and link.resolve() == target.resolve():
        return
    same_parent = target.parent.resolve() == link.parent.resolve()
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.symlink_to(target.name if same_parent else target.resolve(), target_is_directory=True)
        os.replace(temporary, link)
    finally:
        temporary.unlink(missing_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    with atomic_write(target) as temporary:
        temporary.write_bytes(source.read_bytes())


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Write a CSV file atomically; without rows, remove the file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_label_map(path: Path, names: Mapping[int, str]) -> None:
    """Write a label map with an item for each id and name."""
    lines = [f'item {{ name: "{_quotable(name)}" id: {number} }}\n' for number, name in names.items()]
    write_text(path, "".join(lines))


def _quotable(name: str) -> str:
    """Return a name that a label map can store in double quotes."""
    return " ".join(name.replace('"', "'").replace("\\", "/").split())
