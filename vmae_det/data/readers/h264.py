"""What an H.264 packet says of itself before it is decoded (Rec. ITU-T H.264, 7.3.1 and 7.4.1)."""

from __future__ import annotations

import av

_SLICES = range(1, 6)  # nal_unit_type of the coded slices of a picture


def length_size(stream: av.VideoStream) -> int:
    """Bytes that give the length of each unit of a packet, in mp4 and Matroska; 0 for other streams."""
    context = stream.codec_context
    header = context.extradata or b""
    is_avc = context.name == "h264" and len(header) > 4 and header[0] == 1
    return (header[4] & 3) + 1 if is_avc else 0


def no_frame_needs(packet: av.Packet, length_size: int) -> bool:
    """Whether no other picture is predicted from the packet's: nal_ref_idc is 0 in all of its slices."""
    data = memoryview(packet)
    place, found = 0, False
    while place + length_size < len(data):
        length = int.from_bytes(data[place : place + length_size], "big")
        place += length_size
        first = data[place]
        if first & 0x1F in _SLICES:
            if first >> 5 & 3:
                return False
            found = True
        place += length
    return found and place == len(data)
