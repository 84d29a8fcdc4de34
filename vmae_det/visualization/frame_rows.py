"""Rows of frames with captions: the common form of pictures that look inside; and clips of them as video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vmae_det.rendering.fonts import Text, fit_text, load_font
from vmae_det.video.writer import VideoWriter

LEAST_SIDE = 144  # pixels that the longer side of a frame has at least; smaller frames are magnified
FONT_SIZE = 15
GAP = 4
PAPER, INK = (255, 255, 255), (60, 60, 60)
_CAPTION_WIDTH = 230  # pixels; longer captions are shortened
_LINE_HEIGHT = FONT_SIZE + 4
_LEAST_SECONDS = 4  # that a video of a short clip plays; the clip is repeated


Row = tuple[str, np.ndarray]  # a caption of one or more lines, and uint8 RGB frames (n, H, W, 3)


def draw_rows(rows: Sequence[Row], titles: Sequence[str], least_left: int = 0) -> np.ndarray:
    """Frames in rows, a caption left of each row, a title above each column.

    Args:
        rows: with frames of one size.
        titles: n, of the columns.
        least_left: pixels that captions have at least.

    Returns:
        uint8 RGB (H', W', 3), white around the frames; small frames are magnified by a whole number.
    """
    height, width = rows[0][1].shape[1:3]
    factor = max(1, -(-LEAST_SIDE // max(height, width)))
    cell_height, cell_width = factor * height, factor * width
    captions = [_lines(text) for text, _ in rows]
    font = load_font(FONT_SIZE)
    left = max(_width_of_captions(rows), least_left)
    top = 2 * GAP + FONT_SIZE
    size = (left + len(titles) * (cell_width + GAP), top + len(rows) * (cell_height + GAP))
    picture = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(picture)
    for j, title in enumerate(titles):
        middle = left + j * (cell_width + GAP) + cell_width // 2
        pen.text((middle, top - GAP), title, fill=INK, font=font, anchor="ms")
    for i, (lines, (_, frames)) in enumerate(zip(captions, rows)):
        y = top + i * (cell_height + GAP)
        first = y + cell_height // 2 - (len(lines) - 1) * _LINE_HEIGHT // 2
        for number, line in enumerate(lines):
            place = (left - 2 * GAP, first + number * _LINE_HEIGHT)
            pen.text(place, line.letters, fill=INK, font=line.font, anchor="rm")
        for j, frame in enumerate(frames):
            frame = cv2.resize(frame, (cell_width, cell_height), interpolation=cv2.INTER_NEAREST)
            picture.paste(Image.fromarray(frame), (left + j * (cell_width + GAP), y))
    return np.array(picture)


def draw_blocks(blocks: Sequence[Sequence[Row]], titles: Sequence[str], note: str = "") -> np.ndarray:
    """Several blocks of rows one below the other, their columns in line, and a note below all."""
    left = max(_width_of_captions(rows) for rows in blocks)
    pictures = [draw_rows(rows, titles, left) for rows in blocks]
    return stack([*pictures, draw_text(note, pictures[0].shape[1])] if note else pictures)


def _lines(caption: str) -> list[Text]:
    return [fit_text(line, _CAPTION_WIDTH, FONT_SIZE) for line in caption.split("\n")]


def _width_of_captions(rows: Sequence[Row]) -> int:
    return 3 * GAP + round(max(line.width for text, _ in rows for line in _lines(text)))


def draw_text(text: str, width: int) -> np.ndarray:
    """A text on a white strip, in as many lines as it takes, uint8 RGB (H, width, 3)."""
    font, lines = load_font(FONT_SIZE), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width - 2 * GAP or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    strip = Image.new("RGB", (width, len(lines) * _LINE_HEIGHT + 2 * GAP), PAPER)
    pen = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        place = (GAP, GAP + number * _LINE_HEIGHT + _LINE_HEIGHT // 2)
        pen.text(place, line, fill=INK, font=font, anchor="lm")
    return np.array(strip)


def stack(pictures: Sequence[np.ndarray], gap: int = 4 * GAP) -> np.ndarray:
    """Pictures, uint8 RGB (H, W, 3) each, one under the other, left aligned, `gap` pixels below each."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        cv2.copyMakeBorder(
            picture, 0, gap, 0, width - picture.shape[1], borderType=cv2.BORDER_CONSTANT, value=PAPER
        )
        for picture in pictures
    ]
    return np.vstack(padded)


def frames_of(clip: np.ndarray, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """The frames of a clip, uint8 (3, T, H, W), at `indices` (all without), as (n, H, W, 3)."""
    chosen = clip if indices is None else clip[:, list(indices)]
    return np.ascontiguousarray(chosen.transpose(1, 2, 3, 0))


def write_animation(path: str | Path, pictures: Sequence[np.ndarray], fps: float) -> Path:
    """Write pictures, uint8 RGB (H, W, 3) of one size, as an mp4 that plays them again and again for some
    seconds.

    Raises:
        UserError: the file cannot be written.
    """
    height, width = pictures[0].shape[:2]
    repeats = max(1, round(_LEAST_SECONDS * fps / len(pictures)))
    with VideoWriter(path, width, height, Fraction(fps).limit_denominator(1001)) as writer:
        for _ in range(repeats):
            for picture in pictures:
                writer.write(picture)
    return Path(path)
