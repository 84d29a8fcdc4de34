"""What an H.264 packet says of itself before it is decoded (Rec. ITU-T H.264, 7.3.1 and 7.4.1)."""

from __future__ import annotations

from collections.abc import Iterator

import av

_IDR = 5  # nal_unit_type of the slices of an IDR picture
_SLICES = range(1, 6)  # nal_unit_type of the coded slices of a picture


def length_size(stream: av.VideoStream) -> int:
    """Bytes that give the length of each unit of a packet, in mp4 and Matroska; 0 for other streams."""
    context = stream.codec_context
    header = context.extradata or b""
    is_avc = context.name == "h264" and len(header) > 4 and header[0] == 1
    return (header[4] & 3) + 1 if is_avc else 0


def is_idr(packet: av.Packet, length_size: int) -> bool:
    """Whether no later picture can refer to one before the packet's."""
    return any(unit is not None and unit & 0x1F == _IDR for unit in _first_bytes(packet, length_size))


def no_frame_needs(packet: av.Packet, length_size: int) -> bool:
    """Whether no other picture is predicted from the packet's: nal_ref_idc is 0 in all of its slices."""
    found = False
    for unit in _first_bytes(packet, length_size):
        if unit is None:
            return False
        if unit & 0x1F in _SLICES:
            if unit >> 5 & 3:
                return False
            found = True
    return found


def _first_bytes(packet: av.Packet, length_size: int) -> Iterator[int | None]:
    """The first byte of each unit of a packet, then None if the lengths do not add up to its size."""
    data = memoryview(packet)
    place = 0
    while place + length_size < len(data):
        length = int.from_bytes(data[place : place + length_size], "big")
        place += length_size
        yield data[place]
        place += length
    if place != len(data):
        yield None
