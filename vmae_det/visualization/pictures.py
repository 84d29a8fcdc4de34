"""Composes pictures from rows of frames with captions, and writes them as PNG files and videos."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vmae_det.rendering.fonts import Text, fit_text, load_font
from vmae_det.utils.output_files import atomic_write
from vmae_det.video.writer import VideoWriter

MIN_SIDE = 144  # smallest length of the longer side of a frame in pixels; smaller frames are magnified
FONT_SIZE = 15
GAP = 4
BACKGROUND, INK = (255, 255, 255), (60, 60, 60)
_CAPTION_WIDTH = 230  # pixels; longer captions are shortened
_LINE_HEIGHT = FONT_SIZE + 4
_MIN_SECONDS = 4  # shortest duration of a video; short clips are repeated
_DASH = 8  # length of a dash in pixels
_DASH_COLOR = (255, 255, 255)
_PNG_COMPRESSION = (cv2.IMWRITE_PNG_COMPRESSION, 6)  # for flat areas, a third of the size of the default


Row = tuple[str, np.ndarray]  # a caption of one or more lines, and frames, uint8 RGB (n, H, W, 3)


def draw_rows(rows: Sequence[Row], titles: Sequence[str], min_caption_width: int = 0) -> np.ndarray:
    """Draw frames in rows, with a caption left of each row and a title above each column.

    Args:
        rows: captions and frames; all frames have the same size.
        titles: titles of the n columns.
        min_caption_width: smallest width of the captions in pixels.

    Returns:
        uint8 RGB (H', W', 3), white around the frames. Small frames are magnified by an integer factor.
    """
    height, width = rows[0][1].shape[1:3]
    factor = max(1, -(-MIN_SIDE // max(height, width)))
    cell_height, cell_width = factor * height, factor * width
    captions = [_caption_lines(text) for text, _ in rows]
    font = load_font(FONT_SIZE)
    left = max(_caption_width(rows), min_caption_width)
    top = 2 * GAP + FONT_SIZE
    size = (left + len(titles) * (cell_width + GAP), top + len(rows) * (cell_height + GAP))
    picture = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for j, title in enumerate(titles):
        middle = left + j * (cell_width + GAP) + cell_width // 2
        pen.text((middle, top - GAP), title, fill=INK, font=font, anchor="ms")
    for i, (lines, (_, frames)) in enumerate(zip(captions, rows)):
        y = top + i * (cell_height + GAP)
        first = y + cell_height // 2 - (len(lines) - 1) * _LINE_HEIGHT // 2
        for number, line in enumerate(lines):
            position = (left - 2 * GAP, first + number * _LINE_HEIGHT)
            pen.text(position, line.letters, fill=INK, font=line.font, anchor="rm")
        for j, frame in enumerate(frames):
            frame = cv2.resize(frame, (cell_width, cell_height), interpolation=cv2.INTER_NEAREST)
            picture.paste(Image.fromarray(frame), (left + j * (cell_width + GAP), y))
    return np.array(picture)


def draw_blocks(blocks: Sequence[Sequence[Row]], titles: Sequence[str], note: str = "") -> np.ndarray:
    """Draw blocks of rows one below the other, with aligned columns, and a note below all of them."""
    left = max(_caption_width(rows) for rows in blocks)
    pictures = [draw_rows(rows, titles, left) for rows in blocks]
    return stack([*pictures, draw_text(note, pictures[0].shape[1])] if note else pictures)


def _caption_lines(caption: str) -> list[Text]:
    return [fit_text(line, _CAPTION_WIDTH, FONT_SIZE) for line in caption.split("\n")]


def _caption_width(rows: Sequence[Row]) -> int:
    return 3 * GAP + round(max(line.width for text, _ in rows for line in _caption_lines(text)))


def draw_text(text: str, width: int) -> np.ndarray:
    """Draw a text on a white strip, wrapped to its width, uint8 RGB (H, width, 3)."""
    font, lines = load_font(FONT_SIZE), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width - 2 * GAP or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    strip = Image.new("RGB", (width, len(lines) * _LINE_HEIGHT + 2 * GAP), BACKGROUND)
    pen = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        position = (GAP, GAP + number * _LINE_HEIGHT + _LINE_HEIGHT // 2)
        pen.text(position, line, fill=INK, font=font, anchor="lm")
    return np.array(strip)


def draw_dashed_box(picture: np.ndarray, box: np.ndarray) -> None:
    """Draw a white dashed box, xyxy in pixels, into a picture, uint8 RGB (H, W, 3), in place."""
    x1, y1, x2, y2 = np.clip(np.rint(box), -1, max(picture.shape)).astype(int).tolist()
    for x in range(x1, x2, 2 * _DASH):
        for y in (y1, y2):
            cv2.line(picture, (x, y), (min(x + _DASH, x2), y), _DASH_COLOR, 1)
    for y in range(y1, y2, 2 * _DASH):
        for x in (x1, x2):
            cv2.line(picture, (x, y), (x, min(y + _DASH, y2)), _DASH_COLOR, 1)


def stack(pictures: Sequence[np.ndarray], gap: int = 4 * GAP) -> np.ndarray:
    """Stack pictures, uint8 RGB (H, W, 3), vertically: left aligned, with `gap` pixels below each."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        cv2.copyMakeBorder(
            picture, 0, gap, 0, width - picture.shape[1], borderType=cv2.BORDER_CONSTANT, value=BACKGROUND
        )
        for picture in pictures
    ]
    return np.vstack(padded)


def clip_frames(clip: np.ndarray, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """Return frames of a clip, uint8 (3, T, H, W), as (n, H, W, 3).

    Args:
        clip: the clip.
        indices: n frame indices; None for all frames.
    """
    chosen = clip if indices is None else clip[:, list(indices)]
    return np.ascontiguousarray(chosen.transpose(1, 2, 3, 0))


def write_png(path: str | Path, image: np.ndarray | Sequence[np.ndarray]) -> None:
    """Write a PNG file atomically; create its folder if needed.

    Args:
        path: the file.
        image: uint8 RGB (H, W, 3), or several, which are stacked vertically.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    image = image if isinstance(image, np.ndarray) else stack(image)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PNG_COMPRESSION)
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def write_animation(path: str | Path, pictures: Sequence[np.ndarray], fps: float) -> Path:
    """Write pictures as an mp4 that repeats them for at least some seconds.

    Args:
        path: the file.
        pictures: uint8 RGB (H, W, 3), all of one size.
        fps: pictures per second.

    Returns:
        `path`.

    Raises:
        UserError: the file cannot be written.
    """
    height, width = pictures[0].shape[:2]
    repeats = max(1, round(_MIN_SECONDS * fps / len(pictures)))
    with VideoWriter(path, width, height, Fraction(fps).limit_denominator(1001)) as writer:
        for _ in range(repeats):
            for picture in pictures:
                writer.write(picture)
    return Path(path)
