"""Facts about video decoders: FFmpeg, the packages that contain it, and hardware decoding."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

from vmae_det.doctor.isolation import Stage
from vmae_det.doctor.packages import installed_version
from vmae_det.doctor.report import FACT, Finding

SECTION = "Video"
_NVCUVID = "nvcuvid.dll" if sys.platform == "win32" else "libnvcuvid.so.1"


def ffmpeg_program() -> Finding:
    """Return the version of the program `ffmpeg`, which `vmae-det prepare` uses if it is installed."""
    try:
        done = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, timeout=20)
        match = re.match(r"ffmpeg version (\S+)", done.stdout)
        text = match[1] if match else "does not state its version"
    except FileNotFoundError:
        text = "not installed; not needed, because PyAV contains FFmpeg"
    except (OSError, subprocess.TimeoutExpired) as error:
        text = f"cannot be run: {error}"
    return Finding(SECTION, "ffmpeg program", FACT, text)


def describe_decoders(stage: Stage) -> list[Finding]:
    """Return the facts about PyAV, decord, torchcodec and hardware decoding. Imports PyAV."""
    return list(_describe(stage))


def _describe(stage: Stage) -> Iterator[Finding]:
    stage("importing av")
    import av

    version = getattr(av, "ffmpeg_version_info", "") or "of an unknown version"
    codec = ".".join(map(str, av.library_versions.get("libavcodec", ())))
    encoder = "libx264" if "libx264" in av.codecs_available else "no libx264: videos cannot be written"
    yield Finding(
        SECTION, "PyAV", FACT, f"{av.__version__}, FFmpeg {version} (libavcodec {codec}), {encoder}"
    )
    for name in ("decord", "torchcodec"):
        yield Finding(SECTION, name, FACT, installed_version(name) or "not installed; optional")
    yield Finding(SECTION, "hardware decoding", FACT, _hardware(stage))


def _hardware(stage: Stage) -> str:
    """Return whether NVDEC is available, and the devices that FFmpeg in PyAV supports."""
    stage(f"loading {_NVCUVID}")
    try:
        ctypes.CDLL(_NVCUVID)
    except OSError:
        text = f"NVDEC not available ({_NVCUVID} of the NVIDIA driver is not found)"
    else:
        text = "NVDEC available in the driver"
        text += "" if installed_version("torchcodec") else "; pip install 'vmae_det[gpu-decode]' to use it"
    with suppress(ImportError, AttributeError):
        from av.codec.hwaccel import hwdevices_available

        if devices := hwdevices_available():
            text += f"; PyAV is built for {', '.join(devices)}"
    return text
