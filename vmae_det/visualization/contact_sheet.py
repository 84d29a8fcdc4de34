"""Draws contact sheets: keyframes of a detection dataset with their boxes and labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import polars as pl
from PIL import Image, ImageDraw
from tqdm import tqdm

from vmae_det.data.catalog import DatasetSpec
from vmae_det.dataset_tools.check.tables import read_table
from vmae_det.dataset_tools.check.videos import files_by_id
from vmae_det.formats.box_csv import COORDINATES
from vmae_det.formats.label_map import LabelMap
from vmae_det.rendering.fonts import fit_text, load_font
from vmae_det.rendering.label_drawing import ActionLabel
from vmae_det.rendering.overlay import PersonOverlay, draw_people
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.visualization.pictures import draw_dashed_box

NUM_KEYFRAMES = 36
COLUMNS, ROWS = 4, 3  # of a page, in keyframes
_CELL_SIZE = (480, 360)  # width and height of a keyframe in pixels
_GAP, _FONT_SIZE, _CAPTION_HEIGHT = 10, 16, 24
_BACKGROUND, _INK, _ERROR_COLOR = (255, 255, 255), (60, 60, 60), (190, 30, 30)
_LEGEND = "names and colored boxes: annotations     dashed boxes: person boxes"


def draw_contact_sheets(spec: DatasetSpec, num_keyframes: int = NUM_KEYFRAMES) -> list[np.ndarray]:
    """Draw pages of annotated keyframes that are evenly spaced over the dataset.

    Annotated boxes have the names and colors of their actions. Person boxes are dashed and white. Boxes are
    drawn as they are in the file; the caption states how many are not visible, or why the frame cannot be
    read.

    Args:
        spec: a dataset of type detection.
        num_keyframes: maximum number of keyframes.

    Returns:
        Pages, uint8 RGB (H, W, 3). Empty if there are no annotations.

    Raises:
        DataError: annotations, person boxes or label map cannot be read at all.
    """
    label_map = LabelMap.from_file(spec.label_map)
    truth = read_table(spec.annotations, "annotations").rows.filter(pl.col("x1").is_not_null())
    detected = read_table(spec.person_boxes, "person_boxes").rows if spec.person_boxes else truth.clear()
    files = files_by_id(spec.videos)
    keyframes = truth.unique(["video", "ms"], keep="first").sort("video", "ms")
    number = min(num_keyframes, len(keyframes))
    chosen = keyframes[np.linspace(0, len(keyframes) - 1, number).round().astype(int).tolist()]
    cells = []
    bar = tqdm(
        chosen.select("video", "timestamp", "ms").rows(),
        desc="drawing",
        unit="keyframe",
        disable=None,
        leave=False,
    )
    for video, timestamp, ms in bar:
        title, here = (video, _seconds(ms)), (pl.col("video") == video) & (pl.col("ms") == ms)
        try:
            frame = _read_frame(files.get(video), timestamp - spec.start_of(video))
        except DataError as error:
            empty = np.full((*_CELL_SIZE[::-1], 3), 235, np.uint8)
            cells.append(_draw_cell(empty, title, error.problem))
            continue
        cells.append(_draw_keyframe(frame, title, truth.filter(here), detected.filter(here), label_map))
    per_page = COLUMNS * ROWS
    return [_draw_page(cells[i : i + per_page]) for i in range(0, len(cells), per_page)]


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + " s"


def _read_frame(path: Path | None, seconds: float) -> np.ndarray:
    """uint8 RGB (H, W, 3)."""
    if path is None:
        raise DataError("no video file")
    reader = open_video(path, "pyav")  # broken files do not crash this reader
    return reader.frames(np.array([reader.index_at(seconds)]))[0]


def _draw_keyframe(
    frame: np.ndarray,
    title: tuple[str, str],
    truth: pl.DataFrame,
    detected: pl.DataFrame,
    label_map: LabelMap,
) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = min(_CELL_SIZE[0] / width, _CELL_SIZE[1] / height)
    # Resize before drawing, so that names are legible.
    picture = cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    size = np.tile(picture.shape[1::-1], 2)
    persons = [
        PersonOverlay(np.array(box) * size, _labels(actions, label_map))
        for *box, actions in truth.group_by(COORDINATES, maintain_order=True).agg("action").rows()
    ]
    boxes = detected.select(COORDINATES).to_numpy() * size
    picture = np.ascontiguousarray(picture)
    for box in boxes:
        draw_dashed_box(picture, box)
    invisible = sum(not _is_visible(box, size) for box in [*(person.box for person in persons), *boxes])
    problem = f"{invisible} of {len(persons) + len(boxes)} boxes are not visible" if invisible else ""
    return _draw_cell(draw_people(picture, persons, top_k=4), title, problem)


def _labels(actions: list[int], label_map: LabelMap) -> list[ActionLabel]:
    known = dict(zip(label_map.ids, zip(label_map.names, label_map.kinds)))
    unknown = ("not in the label map", "")
    named = [(action, *known.get(action, unknown)) for action in actions]
    return [ActionLabel(f"{action} {name}", None, kind) for action, name, kind in named]


def _is_visible(box: np.ndarray, size: np.ndarray) -> bool:
    """Whether a part of a box is inside of the frame."""
    low, high = np.maximum(box[:2], 0), np.minimum(box[2:], size[2:])
    return bool((low < high).all())


def _draw_cell(picture: np.ndarray, title: tuple[str, str], problem: str) -> np.ndarray:
    """Draw a centered picture with a caption: the name of the video, the time, and in red the problem."""
    width, height = _CELL_SIZE
    cell = Image.new("RGB", (width, height + _CAPTION_HEIGHT), _BACKGROUND)
    top = _CAPTION_HEIGHT + (height - picture.shape[0]) // 2
    cell.paste(Image.fromarray(picture), ((width - picture.shape[1]) // 2, top))
    pen, baseline = ImageDraw.Draw(cell), _CAPTION_HEIGHT - 6
    video, second = title
    room = width / 2 if problem else width
    second = fit_text(second, room, _FONT_SIZE)
    name = fit_text(video, room - second.width - _GAP, _FONT_SIZE)
    at = round(name.font.getlength(name.letters)) + _GAP
    pen.text((0, baseline), name.letters, fill=_INK, font=name.font, anchor="ls")
    pen.text((at, baseline), second.letters, fill=_INK, font=second.font, anchor="ls")
    if problem:
        right = fit_text(problem, width - at - second.width - _GAP, _FONT_SIZE)
        pen.text((width, baseline), right.letters, fill=_ERROR_COLOR, font=right.font, anchor="rs")
    return np.array(cell)


def _draw_page(cells: list[np.ndarray]) -> np.ndarray:
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // COLUMNS)
    size = (_GAP + COLUMNS * (width + _GAP), _GAP + rows * (height + _GAP) + _CAPTION_HEIGHT)
    image = Image.new("RGB", size, _BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.text((_GAP, size[1] - _GAP), _LEGEND, fill=_INK, font=load_font(_FONT_SIZE), anchor="ls")
    page = np.array(image)
    for i, cell in enumerate(cells):
        y, x = (_GAP + k * (n + _GAP) for k, n in zip(divmod(i, COLUMNS), (height, width)))
        page[y : y + height, x : x + width] = cell
    return page
