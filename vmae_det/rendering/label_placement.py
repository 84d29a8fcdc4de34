"""Places labels near their boxes, without covering heads or other labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

GRID = 72  # number of grid cells along the shorter side of the frame, in the search for free space

# Costs of a position. A label must be attributable to its person: near the box, and not on another box.
# Covering the person's body comes next. A label stays where it was unless another position is better by more
# than _MOVE_COST.
_DISTANCE_COST = 6.0  # at a distance of the shorter side of the frame
_OTHERS_COST = 2.0  # if the entire label covers other boxes
_SELF_COST = 0.5
_RANK_COST = 0.02  # per preferred position that is skipped
_MOVE_COST = 0.2


class LabelPosition(NamedTuple):
    """Position of a label.

    Attributes:
        choice: index of the chosen size.
        rectangle: x1, y1, x2, y2 in integer pixels.
    """

    choice: int
    rectangle: tuple[int, int, int, int]


def place_labels(
    frame_size: tuple[int, int],
    boxes: np.ndarray,
    sizes: Sequence[Sequence[tuple[int, int]]],
    gap: int = 2,
    previous: Sequence[tuple[float, float] | None] | None = None,
) -> list[LabelPosition | None]:
    """Return the position of each person's label.

    No label covers a head region, another label or the frame border. A label without free space is dropped.

    Args:
        frame_size: height and width.
        boxes: (N, 4) xyxy pixels, inside the frame.
        sizes: allowed heights and widths of each label. The first size with enough free space is used. Empty
            for a person without label.
        gap: pixels between a box and its label and, where possible, between a label and the frame border.
        previous: last offset (x, y) of each label from the top left corner of its box, or None. The label
            keeps this offset unless another position is clearly better.

    Returns:
        N positions, None where there is no label.
    """
    previous = previous if previous is not None else [None] * len(sizes)
    board = _Board(frame_size, boxes, gap)
    positions: list[LabelPosition | None] = [None] * len(sizes)
    # First the labels of the previous frame, so that they stay. Then small boxes: they have fewer candidates.
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in sorted(range(len(sizes)), key=lambda i: (previous[i] is None, areas[i])):
        for choice, size in enumerate(sizes[i]):
            rectangle = board.place(i, size, previous[i])
            if rectangle is not None:
                positions[i] = LabelPosition(choice, rectangle)
                break
    return positions


def head_regions(boxes: np.ndarray) -> np.ndarray:
    """Return the part of each box (N, 4) xyxy that contains the head, (N, 4).

    For standing persons this is the upper quarter. A wide box shows a person who sits, bends or is close to
    the camera: there the region is as high as 0.6 of the width, and at most half of the box.
    """
    heads = boxes.astype(np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    heads[:, 3] = boxes[:, 1] + np.clip(0.6 * width, 0.25 * height, 0.5 * height)
    return heads


class _Board:
    """The frame while labels are placed one by one."""

    def __init__(self, frame_size: tuple[int, int], boxes: np.ndarray, gap: int) -> None:
        self.frame_size, self.boxes, self.gap = frame_size, boxes, gap
        self.heads = head_regions(boxes)
        self.blocked = self.heads  # heads and placed labels, (M, 4)
        self.cell = max(2, min(frame_size) // GRID)
        self._blocked_cells: np.ndarray | None = None
        self._body_cells: np.ndarray | None = None

    def place(
        self, person: int, size: tuple[int, int], previous: tuple[float, float] | None
    ) -> tuple[int, int, int, int] | None:
        """Place a label of this size at the best free position and block it; None if there is none."""
        if size[0] > self.frame_size[0] or size[1] > self.frame_size[1]:
            return None
        candidates = self._candidates(person, size, previous)
        free = ~_overlap(candidates, self.blocked).any(axis=1)
        if free.any():
            best = candidates[self._cost(candidates, person, np.arange(len(free)), free).argmin()]
        else:
            best = self._search_frame(person, size)
            if best is None:
                return None
        self._block(best)
        return tuple(int(v) for v in best)

    def _candidates(
        self, person: int, size: tuple[int, int], previous: tuple[float, float] | None
    ) -> np.ndarray:
        """Return rectangles (K, 4) around and inside a box: the previous one, then the most readable ones."""
        x1, y1, x2, y2 = self.boxes[person]
        h, w = size
        gap = self.gap
        under_head = self.heads[person, 3] + gap
        left, right, center = x1, x2 - w, (x1 + x2 - w) / 2
        above, below, bottom = y1 - gap - h, y2 + gap, y2 - 2 * gap - h
        # Without a previous position, the most preferred position appears twice.
        first = (left, above) if previous is None else (x1 + previous[0], y1 + previous[1])
        corners = [
            first,
            *((x, above) for x in (left, right, center)),
            *((x, below) for x in (left, right, center)),
            *((x, y) for x in (x2 + gap, x1 - gap - w) for y in (y1, under_head, bottom)),
            *((x, y) for y in (bottom, under_head) for x in (left + 2 * gap, right - 2 * gap)),
        ]
        room = np.array([self.frame_size[1] - w, self.frame_size[0] - h])
        margin = np.minimum(gap, room // 2)
        corners = np.clip(np.rint(corners), margin, room - margin)
        return np.hstack([corners, np.add(corners, (w, h))])

    def _cost(self, rectangles: np.ndarray, person: int, rank: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Return the cost of each rectangle (K, 4); infinite if it is not free."""
        area = (rectangles[0, 2:] - rectangles[0, :2]).prod()
        weights = np.full(len(self.boxes), _OTHERS_COST / area)
        weights[person] = _SELF_COST / area
        cost = _overlap(rectangles, self.boxes) @ weights + self._distance_cost(rectangles, person)
        return np.where(free, cost + _RANK_COST * rank + _MOVE_COST * (rank > 0), np.inf)

    def _distance_cost(self, rectangles: np.ndarray, person: int) -> np.ndarray:
        """Return the cost of the distance between rectangles (..., 4) and the person's box."""
        box = self.boxes[person]
        gaps = np.maximum(box[:2] - rectangles[..., 2:], rectangles[..., :2] - box[2:]).clip(min=0)
        return _DISTANCE_COST / min(self.frame_size) * np.hypot(gaps[..., 0], gaps[..., 1])

    def _search_frame(self, person: int, size: tuple[int, int]) -> np.ndarray | None:
        """Return the best free rectangle (4,) in the whole frame, aligned to the grid, or None."""
        if self._blocked_cells is None:
            self._blocked_cells = self._count_cells(self.blocked)
            self._body_cells = cv2.integral(self._count_cells(self.boxes))
        blocked = _window_sums(cv2.integral(self._blocked_cells), self._in_cells(size))
        # The last rows and columns of cells may extend beyond the frame.
        blocked = blocked[: (self.frame_size[0] - size[0]) // self.cell + 1]
        blocked = blocked[:, : (self.frame_size[1] - size[1]) // self.cell + 1]
        rows, columns = np.nonzero(blocked == 0)
        if not len(rows):
            return None
        on_bodies = _window_sums(self._body_cells, self._in_cells(size))[rows, columns]
        corners = np.stack([columns, rows], axis=1) * self.cell
        rectangles = np.hstack([corners, np.add(corners, size[::-1])])
        cost = _OTHERS_COST * on_bodies / np.prod(self._in_cells(size))
        cost = cost + self._distance_cost(rectangles, person)
        return rectangles[cost.argmin()]

    def _in_cells(self, size: tuple[int, int]) -> tuple[int, int]:
        return -(-size[0] // self.cell), -(-size[1] // self.cell)

    def _count_cells(self, rectangles: np.ndarray) -> np.ndarray:
        """Count the rectangles (M, 4) that touch each cell of the frame, float32 (rows, columns)."""
        cells = np.zeros(self._in_cells(self.frame_size), dtype=np.float32)
        for rectangle in rectangles:
            cells[self._cell_slices(rectangle)] += 1
        return cells

    def _cell_slices(self, rectangle: np.ndarray) -> tuple[slice, slice]:
        x1, y1 = np.floor(rectangle[:2] / self.cell).astype(int)
        x2, y2 = np.ceil(rectangle[2:] / self.cell).astype(int)
        return slice(max(y1, 0), max(y2, 0)), slice(max(x1, 0), max(x2, 0))

    def _block(self, rectangle: np.ndarray) -> None:
        self.blocked = np.vstack([self.blocked, rectangle])
        if self._blocked_cells is not None:
            self._blocked_cells[self._cell_slices(rectangle)] += 1


def _window_sums(integral: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Return the sums of an integral image over all windows (rows, columns), by top left corner."""
    h, w = window
    return integral[h:, w:] - integral[:-h, w:] - integral[h:, :-w] + integral[:-h, :-w]


def _overlap(rectangles: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection areas of (K, 4) and (M, 4) rectangles, (K, M)."""
    width = np.minimum(rectangles[:, 2, None], others[:, 2]) - np.maximum(
        rectangles[:, 0, None], others[:, 0]
    )
    height = np.minimum(rectangles[:, 3, None], others[:, 3]) - np.maximum(
        rectangles[:, 1, None], others[:, 1]
    )
    return width.clip(min=0) * height.clip(min=0)
