"""Contact sheets: keyframes of a detection dataset with their boxes and labels, many on a page."""

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
from vmae_det.rendering.overlay import PersonOverlay, draw_people
from vmae_det.rendering.plates import ActionLabel
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video

NUM_KEYFRAMES = 36
COLUMNS, ROWS = 4, 3  # keyframes on a page
_CELL = (480, 360)  # pixels that a keyframe is given, width and height
_GAP, _FONT_SIZE, _CAPTION = 10, 16, 24
_PAPER, _INK, _ALARM, _DETECTED = (255, 255, 255), (60, 60, 60), (190, 30, 30), (255, 255, 255)
_DASH = 8
_LEGEND = "names and coloured boxes: annotations     dashed boxes: person boxes"


def draw_contact_sheets(spec: DatasetSpec, num_keyframes: int = NUM_KEYFRAMES) -> list[np.ndarray]:
    """Pages of annotated keyframes, spread evenly over the dataset.

    Annotated boxes have their actions' names and colours, person boxes are dashed and white. Boxes are
    drawn as they stand in the file; a caption counts those that cannot be seen, and says why a keyframe has
    no frame.

    Returns:
        uint8 RGB (H, W, 3) each; none without annotations.

    Raises:
        DataError: annotations, person boxes or label map cannot be read as a whole.
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
            cells.append(_cell(np.full((_CELL[1], _CELL[0], 3), 235, np.uint8), title, error.problem))
            continue
        cells.append(_draw_keyframe(frame, title, truth.filter(here), detected.filter(here), label_map))
    per_page = COLUMNS * ROWS
    return [_page(cells[i : i + per_page]) for i in range(0, len(cells), per_page)]


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + " s"


def _read_frame(path: Path | None, seconds: float) -> np.ndarray:
    """uint8 RGB (H, W, 3)."""
    if path is None:
        raise DataError("no video file")
    reader = open_video(path, "pyav")  # the one of the two that broken files do not crash
    return reader.frames(np.array([reader.index_at(seconds)]))[0]


def _draw_keyframe(
    frame: np.ndarray,
    title: tuple[str, str],
    truth: pl.DataFrame,
    detected: pl.DataFrame,
    label_map: LabelMap,
) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = min(_CELL[0] / width, _CELL[1] / height)
    # Drawn at the size it is shown in, so that names are legible.
    picture = cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    size = np.tile(picture.shape[1::-1], 2)
    persons = [
        PersonOverlay(np.array(box) * size, _labels(actions, label_map))
        for *box, actions in truth.group_by(COORDINATES, maintain_order=True).agg("action").rows()
    ]
    boxes = detected.select(COORDINATES).to_numpy() * size
    picture = np.ascontiguousarray(picture)
    for box in boxes:
        draw_dashed(picture, box)
    unseen = sum(not _is_visible(box, size) for box in [*(person.box for person in persons), *boxes])
    problem = f"{unseen} of {len(persons) + len(boxes)} boxes cannot be seen" if unseen else ""
    return _cell(draw_people(picture, persons, top_k=4), title, problem)


def _labels(actions: list[int], label_map: LabelMap) -> list[ActionLabel]:
    known = dict(zip(label_map.ids, zip(label_map.names, label_map.kinds)))
    unknown = ("not in the label map", "")
    named = [(action, *known.get(action, unknown)) for action in actions]
    return [ActionLabel(f"{action} {name}", None, kind) for action, name, kind in named]


def _is_visible(box: np.ndarray, size: np.ndarray) -> bool:
    """Whether a box has area inside of the frame."""
    low, high = np.maximum(box[:2], 0), np.minimum(box[2:], size[2:])
    return bool((low < high).all())


def draw_dashed(picture: np.ndarray, box: np.ndarray) -> None:
    """Draw a white dashed box, xyxy in pixels, into a picture, uint8 RGB (H, W, 3)."""
    x1, y1, x2, y2 = np.clip(np.rint(box), -1, max(picture.shape)).astype(int).tolist()
    for x in range(x1, x2, 2 * _DASH):
        for y in (y1, y2):
            cv2.line(picture, (x, y), (min(x + _DASH, x2), y), _DETECTED, 1)
    for y in range(y1, y2, 2 * _DASH):
        for x in (x1, x2):
            cv2.line(picture, (x, y), (x, min(y + _DASH, y2)), _DETECTED, 1)


def _cell(picture: np.ndarray, title: tuple[str, str], problem: str) -> np.ndarray:
    """A picture in the middle of its cell; above it the video, as much of its name as there is room for, and
    the second, and in red what is wrong."""
    cell = Image.new("RGB", (_CELL[0], _CELL[1] + _CAPTION), _PAPER)
    top = _CAPTION + (_CELL[1] - picture.shape[0]) // 2
    cell.paste(Image.fromarray(picture), ((_CELL[0] - picture.shape[1]) // 2, top))
    pen, baseline = ImageDraw.Draw(cell), _CAPTION - 6
    video, second = title
    room = _CELL[0] / 2 if problem else _CELL[0]
    second = fit_text(second, room, _FONT_SIZE)
    name = fit_text(video, room - second.width - _GAP, _FONT_SIZE)
    at = round(name.font.getlength(name.letters)) + _GAP
    pen.text((0, baseline), name.letters, fill=_INK, font=name.font, anchor="ls")
    pen.text((at, baseline), second.letters, fill=_INK, font=second.font, anchor="ls")
    if problem:
        right = fit_text(problem, _CELL[0] - at - second.width - _GAP, _FONT_SIZE)
        pen.text((_CELL[0], baseline), right.letters, fill=_ALARM, font=right.font, anchor="rs")
    return np.array(cell)


def _page(cells: list[np.ndarray]) -> np.ndarray:
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // COLUMNS)
    size = (_GAP + COLUMNS * (width + _GAP), _GAP + rows * (height + _GAP) + _CAPTION)
    paper = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((_GAP, size[1] - _GAP), _LEGEND, fill=_INK, font=load_font(_FONT_SIZE), anchor="ls")
    page = np.array(paper)
    for i, cell in enumerate(cells):
        y, x = (_GAP + k * (n + _GAP) for k, n in zip(divmod(i, COLUMNS), (height, width)))
        page[y : y + height, x : x + width] = cell
    return page
