"""Matroska and WebM files (EBML): whether one is truncated."""

from __future__ import annotations

from vmae_det.video.readers.base import VideoLocation

_CONTAINERS = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75")  # ids of Segment and Cluster
_LONGEST_HEADER = 12  # bytes: an id of up to 4, and a size of up to 8


def is_truncated(location: VideoLocation, size: int) -> bool:
    """Return whether a file ends inside an element.

    A file that was written as a stream does not state its size, but that of each element in it.

    Args:
        size: number of bytes of the file.
    """
    first, position = location.start or 0, 0
    with location.file.open("rb") as file:
        while position < size:
            file.seek(first + position)
            header = file.read(min(_LONGEST_HEADER, size - position))
            id_length = _length(header[:1])
            digits = header[id_length : id_length + _length(header[id_length : id_length + 1])]
            position += id_length + _length(digits[:1])
            if not 0 < id_length <= 4 or (id_length < len(header) and not digits):
                return False  # not an element: what follows the file is unknown
            largest = (1 << 7 * len(digits)) - 1
            content = int.from_bytes(digits, "big") & largest
            if content < largest:
                position += content
            elif digits and header[:id_length] not in _CONTAINERS:
                return False
            # The elements in a container of unknown size are read like those after it.
    return position > size


def _length(first: bytes) -> int:
    """Return the number of bytes of a variable-length integer, by its first byte; 0 if it is not valid."""
    return 9 - first[0].bit_length() if first and first[0] else 0
