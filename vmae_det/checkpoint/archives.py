"""ZIP archives of PyTorch, whose parts are stored as they are: they unpack to no more than their own size."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmae_det.utils.errors import WeightsError


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`, whose parts `read_part` reads without taking more memory than it has bytes.

    Raises:
        WeightsError: a name comes twice, or parts overlap.
        zipfile.BadZipFile, OSError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if len({part.filename for part in parts}) < len(parts):
            raise WeightsError(f"{path}: refused: a name comes twice in the archive")
        claimed = sum(part.file_size for part in parts if part.compress_type == zipfile.ZIP_STORED)
        if claimed > path.stat().st_size:
            raise WeightsError(
                f"{path}: refused: its parts claim {claimed} bytes, the file has {path.stat().st_size}"
            )
        yield archive


def read_part(archive: zipfile.ZipFile, name: str) -> bytes:
    """A part of an archive, held against its CRC-32.

    `torch.save` and `torch.export.save` compress no data, so a compressed part may be a bomb.

    Raises:
        WeightsError: it is compressed or encrypted.
        zipfile.BadZipFile, KeyError, OSError: it is damaged, or there is none.
    """
    part = archive.getinfo(name)
    if part.flag_bits & 1 or part.compress_type != zipfile.ZIP_STORED:
        how = "encrypted" if part.flag_bits & 1 else "compressed"
        raise WeightsError(
            f"{archive.filename}: refused: its part {name!r:.80} is {how}; PyTorch stores data as it is"
        )
    return archive.read(part)
