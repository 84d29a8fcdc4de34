"""Where labels go: near their boxes, and never on a head or on another label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

GRID = 72  # cells along the frame's shorter side, in which room is looked for

# Costs of a place. It should be seen whose label it is: near the box, not on another's. Then comes the own
# body. A label stays where it was unless a place is better by more than the last.
_AWAY = 6.0  # for a distance of the frame's shorter side
_ON_OTHERS = 2.0  # for lying wholly on others' boxes
_ON_SELF = 0.5
_LATER_CHOICE = 0.02  # for each place that comes before it in the order of preference
_MOVED = 0.2


class Place(NamedTuple):
    """Where a label goes: which of its sizes, and its rectangle x1, y1, x2, y2 in whole pixels."""

    choice: int
    rectangle: tuple[int, int, int, int]


def place_labels(
    frame_size: tuple[int, int],
    boxes: np.ndarray,
    sizes: Sequence[Sequence[tuple[int, int]]],
    gap: int = 2,
    habits: Sequence[tuple[float, float] | None] | None = None,
) -> list[Place | None]:
    """Where each person's label goes.

    No label covers a head region, another label, or the frame's border; one that has no room is left out.

    Args:
        frame_size: height and width.
        boxes: (N, 4) xyxy pixels, inside the frame.
        sizes: of each person's label, the heights and widths it may have; the first that there is room for is
            taken. None at all for a person without one.
        gap: pixels between a box and a label beside it, and, where there is room, between a label and the
            frame's border.
        habits: where each label used to be, from its box's upper left corner to its own (x, y), or None; it
            stays there unless another place is clearly better.
    """
    habits = habits if habits is not None else [None] * len(sizes)
    board = _Board(frame_size, boxes, gap)
    places: list[Place | None] = [None] * len(sizes)
    # Who had a label keeps it. Then small boxes first: a large one has a longer border, hence more places.
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in sorted(range(len(sizes)), key=lambda i: (habits[i] is None, areas[i])):
        for choice, size in enumerate(sizes[i]):
            rectangle = board.place(i, size, habits[i])
            if rectangle is not None:
                places[i] = Place(choice, rectangle)
                break
    return places


def head_regions(boxes: np.ndarray) -> np.ndarray:
    """The part of each box (N, 4) xyxy that holds the head, (N, 4).

    The upper quarter of a person who stands. In a box that is wide for its height, people sit, bend, or are
    seen from near: there it is as high as 0.6 of the width, at most half of the box.
    """
    heads = boxes.astype(np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    heads[:, 3] = boxes[:, 1] + np.clip(0.6 * width, 0.25 * height, 0.5 * height)
    return heads


class _Board:
    """The frame while labels are put on it, one after the other."""

    def __init__(self, frame_size: tuple[int, int], boxes: np.ndarray, gap: int) -> None:
        self.frame_size, self.boxes, self.gap = frame_size, boxes, gap
        self.heads = head_regions(boxes)
        self.blocked = self.heads  # and the labels, as they come; (M, 4)
        self.cell = max(2, min(frame_size) // GRID)
        self._blocked_cells: np.ndarray | None = None
        self._body_cells: np.ndarray | None = None

    def place(
        self, person: int, size: tuple[int, int], habit: tuple[float, float] | None
    ) -> tuple[int, int, int, int] | None:
        """The best place for a label of this size that covers no head and no label; it is then taken."""
        if size[0] > self.frame_size[0] or size[1] > self.frame_size[1]:
            return None
        rectangles = self._beside(person, size, habit)
        free = ~_overlap(rectangles, self.blocked).any(axis=1)
        if free.any():
            best = rectangles[self._cost(rectangles, person, np.arange(len(free)), free).argmin()]
        else:
            best = self._anywhere(person, size)
            if best is None:
                return None
        self._take(best)
        return tuple(int(v) for v in best)

    def _beside(self, person: int, size: tuple[int, int], habit: tuple[float, float] | None) -> np.ndarray:
        """Rectangles (K, 4) around and inside a box, the habit first, then the most readable."""
        x1, y1, x2, y2 = self.boxes[person]
        h, w = size
        gap = self.gap
        under_head = self.heads[person, 3] + gap
        left, right, centre = x1, x2 - w, (x1 + x2 - w) / 2
        above, below, bottom = y1 - gap - h, y2 + gap, y2 - 2 * gap - h
        # Without a habit the first preference stands in its place.
        first = (left, above) if habit is None else (x1 + habit[0], y1 + habit[1])
        corners = [
            first,
            *((x, above) for x in (left, right, centre)),
            *((x, below) for x in (left, right, centre)),
            *((x, y) for x in (x2 + gap, x1 - gap - w) for y in (y1, under_head, bottom)),
            *((x, y) for y in (bottom, under_head) for x in (left + 2 * gap, right - 2 * gap)),
        ]
        room = np.array([self.frame_size[1] - w, self.frame_size[0] - h])
        margin = np.minimum(gap, room // 2)
        corners = np.clip(np.rint(corners), margin, room - margin)
        return np.hstack([corners, np.add(corners, (w, h))])

    def _cost(self, rectangles: np.ndarray, person: int, order: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Of each of (K, 4), infinite where it is not free."""
        area = (rectangles[0, 2:] - rectangles[0, :2]).prod()
        weights = np.full(len(self.boxes), _ON_OTHERS / area)
        weights[person] = _ON_SELF / area
        cost = _overlap(rectangles, self.boxes) @ weights + self._away(rectangles, person)
        return np.where(free, cost + _LATER_CHOICE * order + _MOVED * (order > 0), np.inf)

    def _away(self, rectangles: np.ndarray, person: int) -> np.ndarray:
        """The cost of the distance between rectangles (..., 4) and the person's box."""
        box = self.boxes[person]
        gaps = np.maximum(box[:2] - rectangles[..., 2:], rectangles[..., :2] - box[2:]).clip(min=0)
        return _AWAY / min(self.frame_size) * np.hypot(gaps[..., 0], gaps[..., 1])

    def _anywhere(self, person: int, size: tuple[int, int]) -> np.ndarray | None:
        """The best free rectangle (4,) in the whole frame, its corner on the grid; None if there is none."""
        if self._blocked_cells is None:
            self._blocked_cells = self._cells(self.blocked)
            self._body_cells = cv2.integral(self._cells(self.boxes))
        taken = _window_sums(cv2.integral(self._blocked_cells), self._in_cells(size))
        # The last rows and columns of cells may reach beyond the frame.
        taken = taken[: (self.frame_size[0] - size[0]) // self.cell + 1]
        taken = taken[:, : (self.frame_size[1] - size[1]) // self.cell + 1]
        rows, columns = np.nonzero(taken == 0)
        if not len(rows):
            return None
        on_bodies = _window_sums(self._body_cells, self._in_cells(size))[rows, columns]
        corners = np.stack([columns, rows], axis=1) * self.cell
        rectangles = np.hstack([corners, np.add(corners, size[::-1])])
        cost = _ON_OTHERS * on_bodies / np.prod(self._in_cells(size)) + self._away(rectangles, person)
        return rectangles[cost.argmin()]

    def _in_cells(self, size: tuple[int, int]) -> tuple[int, int]:
        return -(-size[0] // self.cell), -(-size[1] // self.cell)

    def _cells(self, rectangles: np.ndarray) -> np.ndarray:
        """How many of the rectangles (M, 4) touch each cell of the frame, float32 (rows, columns)."""
        cells = np.zeros(self._in_cells(self.frame_size), dtype=np.float32)
        for rectangle in rectangles:
            cells[self._cells_of(rectangle)] += 1
        return cells

    def _cells_of(self, rectangle: np.ndarray) -> tuple[slice, slice]:
        x1, y1 = np.floor(rectangle[:2] / self.cell).astype(int)
        x2, y2 = np.ceil(rectangle[2:] / self.cell).astype(int)
        return slice(max(y1, 0), max(y2, 0)), slice(max(x1, 0), max(x2, 0))

    def _take(self, rectangle: np.ndarray) -> None:
        self.blocked = np.vstack([self.blocked, rectangle])
        if self._blocked_cells is not None:
            self._blocked_cells[self._cells_of(rectangle)] += 1


def _window_sums(integral: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Sums over all windows of (rows, columns), by the corner; from an integral image."""
    h, w = window
    return integral[h:, w:] - integral[:-h, w:] - integral[h:, :-w] + integral[:-h, :-w]


def _overlap(rectangles: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas shared by each of (K, 4) with each of (M, 4), (K, M)."""
    width = np.minimum(rectangles[:, 2, None], others[:, 2]) - np.maximum(
        rectangles[:, 0, None], others[:, 0]
    )
    height = np.minimum(rectangles[:, 3, None], others[:, 3]) - np.maximum(
        rectangles[:, 1, None], others[:, 1]
    )
    return width.clip(min=0) * height.clip(min=0)
