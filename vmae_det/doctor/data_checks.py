"""Checks of video readers, of the loader with its workers and shared memory, and of writing files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmae_det.doctor.isolation import Problem, Stage, explain
from vmae_det.doctor.machine import disk, shared_memory
from vmae_det.doctor.report import FAILED, OK, SKIPPED, WARNING, Finding
from vmae_det.utils.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from vmae_det.config import CfgNode

FRAMES, _KEY_EVERY = 30, 12
WIDTH, HEIGHT = 96, 64
_INDICES = (0, 7, 11, 12, 23, 29, 3)  # before, at and after key frames, and backwards
_BITS = 5  # of the number of a frame
_DARK, _BRIGHT = 40, 215
_MARGIN = 45  # by which a block may differ from its value after compression
_CLIPS = 8  # of the check of the loader
_READER_PACKAGES = {"pyav": "av", "images": "pillow opencv-python-headless", "nvdec": "torchcodec"}


# ---------------------------------------------------------------- readers


def number_frame(number: int) -> np.ndarray:
    """Return a frame that shows its number, uint8 RGB (HEIGHT, WIDTH, 3).

    The columns are the bits of the number, lowest first, bright for 1; the lower half is the inverse, so that
    a frame that is upside down differs. A red stripe on the left shows swapped colors.
    """
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    block = WIDTH // (_BITS + 1)
    frame[:, :block] = (_BRIGHT, _DARK, _DARK)
    for bit in range(_BITS):
        value = _BRIGHT if number >> bit & 1 else _DARK
        columns = slice(block * (bit + 1), block * (bit + 2))
        frame[: HEIGHT // 2, columns], frame[HEIGHT // 2 :, columns] = value, _BRIGHT + _DARK - value
    return frame


def shown_number(frame: np.ndarray) -> int | None:
    """Return the number that a frame shows; None if it differs from every frame of `number_frame`."""
    if frame.shape != (HEIGHT, WIDTH, 3):
        return None
    block = WIDTH // (_BITS + 1)
    gray = frame[: HEIGHT // 2].mean(axis=(0, 2))
    middles = block * (np.arange(_BITS) + 1) + block // 2
    number = int(((gray[middles] > (_BRIGHT + _DARK) / 2) << np.arange(_BITS)).sum())
    # Compare the inside of the blocks, because compression blurs their edges.
    columns = (block * np.arange(_BITS + 1) + block // 2)[:, None] + np.arange(-3, 4)
    rows = (np.array([HEIGHT // 4, 3 * HEIGHT // 4])[:, None] + np.arange(-6, 7)).ravel()
    inside = np.ix_(rows, columns.ravel())
    difference = np.abs(frame[inside].astype(int) - number_frame(number)[inside])
    return number if difference.max() <= _MARGIN else None


def write_numbered_video(path: Path) -> Path:
    """Write a video of FRAMES numbered frames with several key frames and B-frames."""
    from vmae_det.video.writer import VideoWriter

    with VideoWriter(path, WIDTH, HEIGHT, Fraction(25), key_every=_KEY_EVERY) as writer:
        for number in range(FRAMES):
            writer.write(number_frame(number))
    return path


def reader_names(stage: Stage) -> list[Finding]:
    """Return a finding named after each registered reader."""
    from vmae_det.video.readers import READER_REGISTRY

    return [Finding("", name, OK, "") for name, _ in READER_REGISTRY]


def check_reader(stage: Stage, name: str) -> str:
    """Decode a generated video with a reader; each frame must show its number.

    Raises:
        Problem: a frame is wrong, or the reader is not installed.
    """
    from PIL import Image

    from vmae_det.video.readers import open_video

    with tempfile.TemporaryDirectory(prefix="vmae_det_doctor_") as folder:
        if name == "images":
            source = Path(folder)
            for number in range(FRAMES):
                Image.fromarray(number_frame(number)).save(source / f"{number:05d}.png")
        else:
            stage("writing a video with PyAV")
            source = write_numbered_video(Path(folder) / "numbered.mp4")
        stage(f"reading with {name}")
        try:
            reader = open_video(source, name)
            count = len(reader)
            frames = reader.frames(np.array(_INDICES))
        except ConfigError as error:  # its package is not installed
            raise Problem(SKIPPED, str(error), f"needed only for DATALOADER.READER {name}") from None
        except Exception as error:  # decoders raise anything
            raise _reader_problem(name, explain(error).text) from None
    if count != FRAMES:
        raise _reader_problem(name, f"{count} frames, expected {FRAMES}")
    for index, frame in zip(_INDICES, frames):
        number = shown_number(frame)
        if number != index:
            shown = "another picture" if number is None or number >= FRAMES else f"frame {number}"
            raise _reader_problem(name, f"frame {index} of {FRAMES} shows {shown}")
    package = _READER_PACKAGES.get(name, name)
    if getattr(reader, f"uses_{package}", True) is False:  # such as DecordReader.uses_decord
        text = f"{name} cannot read an H.264 video; PyAV reads it instead"
        driver = ", and update the NVIDIA driver" if name == "nvdec" else ""
        raise Problem(WARNING, text, f"pip install --upgrade {package}{driver}")
    kind = "PNG files" if name == "images" else "an H.264 video"
    return f"{len(_INDICES)} frames of {kind} are right"


def _reader_problem(name: str, text: str) -> Problem:
    other = "pyav" if name != "pyav" else "decord"
    package = _READER_PACKAGES.get(name, name)
    return Problem(
        FAILED,
        text,
        f"pip install --force-reinstall {package}, or use another reader: DATALOADER.READER {other}",
    )


# ---------------------------------------------------------------- loader


def check_loader(stage: Stage) -> str:
    """Load batches with two workers; they must equal those that are loaded without workers.

    Raises:
        Problem: they differ, a worker dies, or /dev/shm is too small.
    """
    import torch

    with _small_dataset() as cfg:
        batches = {}
        for workers in (0, 2):
            stage(f"{workers} workers")
            cfg.DATALOADER.NUM_WORKERS = workers
            try:
                batches[workers] = _first_batches(cfg, 3)
            except (OSError, RuntimeError) as error:
                raise Problem(FAILED, f"with {workers} workers: {error}", _shared_memory_remedy()) from None
    for alone, parallel in zip(*batches.values()):
        if not all(torch.equal(alone[key], parallel[key]) for key in ("video", "seed")):
            remedy = "set DATALOADER.NUM_WORKERS 0, and report this as a bug with this page"
            raise Problem(FAILED, "batches of 2 workers differ from those without workers", remedy)
    return "batches of 2 workers equal those without workers"


def check_shared_memory(stage: Stage) -> str:
    """Compare the free space of /dev/shm with what the batches of the default config need.

    Training batches use other memory (`data.buffer_pool`); test batches use /dev/shm.
    """
    from vmae_det.config import get_cfg
    from vmae_det.data.worker_pool import PREFETCH

    cfg = get_cfg()
    side = cfg.INPUT.TEST_SHORT_SIDE
    batch = cfg.TEST.BATCH_SIZE * 3 * cfg.INPUT.NUM_FRAMES * side * side * 16 // 9  # of 16:9 videos
    needed = batch * cfg.DATALOADER.NUM_WORKERS * PREFETCH
    try:
        finding = shared_memory(needed)
    except OSError:
        raise Problem(SKIPPED, "this system has no /dev/shm", "nothing to do") from None
    if finding.status != OK:
        raise Problem(finding.status, finding.text, finding.remedy)
    return f"{finding.text}; batches of the default config need at most {needed / 1e9:.1f} GB"


def _shared_memory_remedy() -> str:
    try:
        finding = shared_memory()
    except OSError:
        return "set DATALOADER.NUM_WORKERS 0"
    return finding.remedy or "set DATALOADER.NUM_WORKERS 0; in a container: docker run --shm-size=8g"


@contextmanager
def _small_dataset() -> Iterator[CfgNode]:
    """Yield a pre-training config whose dataset is a folder of numbered videos."""
    from vmae_det.doctor.tiny_models import tiny_config

    with tempfile.TemporaryDirectory(prefix="vmae_det_doctor_") as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        first = write_numbered_video(videos / "0.mp4")
        for number in range(1, _CLIPS):
            (videos / f"{number}.mp4").write_bytes(first.read_bytes())
        yield tiny_config(
            "pretraining",
            *("DATASETS.TRAIN", (str(videos),), "SOLVER.BATCH_SIZE", 2, "INPUT.SAMPLING_RATE", 2),
            *("INPUT.TRAIN_SHORT_SIDE", 64, "DATALOADER.TIMEOUT", 30.0),
        )


def _first_batches(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    from vmae_det.data.loader import build_train_dataset, build_train_loader

    loader = build_train_loader(cfg, build_train_dataset(cfg, "pretraining"))
    with closing(iter(loader)) as batches:
        # Clones, because a batch may lie in a buffer that is reused.
        return [
            {key: next_batch[key].clone() for key in ("video", "seed")}
            for next_batch, _ in zip(batches, range(count))
        ]


# ---------------------------------------------------------------- writing


def check_writing(stage: Stage, folder: str) -> str:
    """Write, read and delete a file in a folder.

    Raises:
        Problem: the folder cannot be written to, or its disk is full.
    """
    from vmae_det.utils.output_files import atomic_write

    path = Path(folder) / f".vmae_det_doctor_{os.getpid()}"
    content = bytes(range(256)) * 4096
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        same = path.read_bytes() == content
    except OutputError as error:
        remedy = "change the permissions of the folder, free disk space, or use --folder"
        raise Problem(FAILED, f"cannot be written: {error.strerror}", remedy) from None
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    if not same:
        raise Problem(FAILED, "the file that was read differs from the one written", "check the disk")
    space = disk("disk", Path(folder))
    if space.status != OK:
        raise Problem(space.status, space.text, space.remedy)
    return f"1 MB written and read; {space.text}"
