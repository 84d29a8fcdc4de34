"""Render the frames of a MiniAVA video from its plan, and compute its ground truth at the keyframes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sin

import cv2
import numpy as np

from vmae_det.mini_ava.figures import (
    Color,
    Polygon,
    Stroke,
    draw_shapes,
    draw_silhouette,
    person_shapes,
    random_appearance,
)
from vmae_det.mini_ava.motion import Joints, joints_of, pose_at
from vmae_det.mini_ava.plan import FPS, HEIGHT, WIDTH, PersonPlan, VideoPlan

_SUPERSAMPLING = 2  # frames are drawn at this multiple of their size and averaged down
_MARGIN = (WIDTH // 3, HEIGHT // 5)  # of background outside the frame of the unmoved camera, in pixels
_HORIZON = 0.62  # border between wall and floor, in frame heights
_TURN_SECONDS = 0.2  # in which a person turns around


@dataclass(frozen=True)
class PersonTruth:
    """Ground truth of a person at a keyframe.

    Args:
        person: index in the video.
        box: x1, y1, x2, y2 in [0, 1] of the visible part.
        visible: fraction of the person that is visible.
        actions: names of the actions.
    """

    person: int
    box: tuple[float, float, float, float]
    visible: float
    actions: tuple[str, ...]


@dataclass(frozen=True)
class _Camera:
    """Slow sine movements around the center; each is (amplitude, cycles per second, phase in cycles)."""

    pan: tuple[float, float, float]  # pixels
    tilt: tuple[float, float, float]
    zoom: tuple[float, float, float]  # relative
    light: tuple[float, float, float]  # relative brightness

    @staticmethod
    def at(movement: tuple[float, float, float], time: float) -> float:
        amplitude, frequency, phase = movement
        return amplitude * sin(2 * pi * (frequency * time + phase))


class Scene:
    """Renderer of one video."""

    def __init__(self, plan: VideoPlan) -> None:
        rng = np.random.default_rng(plan.random_key)
        self._plan = plan
        self._background, wall, floor = _draw_background(rng)
        self._appearances = [random_appearance(rng, [wall, floor]) for _ in plan.people]
        self._camera = _Camera(
            pan=(rng.uniform(3, 12), rng.uniform(0.03, 0.1), rng.random()),
            tilt=(rng.uniform(0, 3), rng.uniform(0.03, 0.1), rng.random()),
            zoom=(rng.uniform(0.0, 0.06), rng.uniform(0.03, 0.1), rng.random()),
            light=(rng.uniform(0.0, 0.1), rng.uniform(0.05, 0.2), rng.random()),
        )
        self._paths = [_path(person, plan) for person in plan.people]
        self._crates = [
            _crate(person, rng.uniform(0.2, 0.32), appearance.box)
            for person, appearance in zip(plan.people, self._appearances)
            if person.has_crate
        ]
        # Persons lower in the frame are nearer and occlude the others.
        self._back_to_front = sorted(range(len(plan.people)), key=lambda i: plan.people[i].ground)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield all frames in order, uint8 RGB (HEIGHT, WIDTH, 3)."""
        for number in range(round(self._plan.seconds * FPS)):
            yield self._draw_frame(number)

    def truth(self, second: int) -> list[PersonTruth]:
        """Return every person with at least one visible pixel at `second` of the file."""
        number = second * FPS
        # A canvas with a border on all sides, to measure how much of a person is outside the frame.
        border = WIDTH
        inside = (slice(border, border + HEIGHT), slice(border, border + WIDTH))
        owner = np.zeros((HEIGHT + 2 * border, WIDTH + 2 * border), np.uint8)
        areas = {}
        for i in self._back_to_front:
            shapes = self._shapes(i, number, 1, (border, border))
            alone = np.zeros_like(owner)
            draw_silhouette(alone, shapes, 1)
            areas[i] = int(np.count_nonzero(alone))
            draw_silhouette(owner, shapes, i + 1)
        truths = []
        for i, person in enumerate(self._plan.people):
            rows, columns = np.nonzero(owner[inside] == i + 1)
            if not rows.size:
                continue
            box = (
                columns.min() / WIDTH,
                rows.min() / HEIGHT,
                (columns.max() + 1) / WIDTH,
                (rows.max() + 1) / HEIGHT,
            )
            segment = next(s for s in person.segments if second < s.end)
            truths.append(PersonTruth(i, tuple(map(float, box)), rows.size / areas[i], segment.actions))
        return truths

    def _view(self, number: int, scale: int) -> np.ndarray:
        """Return the (2, 3) matrix from pixels of the unmoved camera to pixels of the frame at `scale`."""
        time = number / FPS
        zoom = 1 + self._camera.at(self._camera.zoom, time)
        x = WIDTH / 2 + self._camera.at(self._camera.pan, time)
        y = HEIGHT / 2 + self._camera.at(self._camera.tilt, time)
        if self._plan.camera_follows:
            x += self._paths[0][number, 0] - self._plan.people[0].x
        return scale * np.array([[zoom, 0, WIDTH / 2 - zoom * x], [0, zoom, HEIGHT / 2 - zoom * y]])

    def _draw_frame(self, number: int) -> np.ndarray:
        view = self._view(number, _SUPERSAMPLING)
        frame = self._visible_background(view)
        draw_shapes(
            frame,
            [Polygon(crate.corners @ view[:, :2].T + view[:, 2], crate.color) for crate in self._crates],
        )
        for i in self._back_to_front:
            draw_shapes(frame, self._shapes(i, number, _SUPERSAMPLING))
        frame = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        return cv2.convertScaleAbs(frame, alpha=1 + self._camera.at(self._camera.light, number / FPS))

    def _visible_background(self, view: np.ndarray) -> np.ndarray:
        # The background is already drawn at the supersampled size, and starts a margin outside the frame.
        to_background = view.copy()
        to_background[:, :2] /= _SUPERSAMPLING
        to_background[:, 2] -= view[:, :2] @ np.array(_MARGIN)
        size = (WIDTH * _SUPERSAMPLING, HEIGHT * _SUPERSAMPLING)
        return cv2.warpAffine(
            self._background, to_background, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )

    def _shapes(
        self, index: int, number: int, scale: int, offset: tuple[float, float] = (0, 0)
    ) -> list[Stroke | Polygon]:
        person, appearance = self._plan.people[index], self._appearances[index]
        x, facing = self._paths[index][number]
        partner = None if person.partner is None else self._plan.people[person.partner]
        partner_distance = abs(partner.x - person.x) / person.height if partner else 0.0
        pose = pose_at(person.segments, number / FPS, partner_distance)
        view = self._view(number, scale)
        # A linear map from units of height, with y up, to pixels, with y down.
        size = person.height * view[0, 0]
        stretch = np.array([size * facing, -size])
        shift = view[:, :2] @ (x, person.ground) + view[:, 2] + offset
        joints = Joints(*(points * stretch + shift for points in joints_of(pose, appearance.depth)))
        return person_shapes(joints, appearance, size, carrying=pose.carrying > 0.5)


def _path(person: PersonPlan, plan: VideoPlan) -> np.ndarray:
    """Return position (pixels) and direction (-1 left to 1 right) of a person in every frame: (frames, 2)."""
    x, heading = person.x, 1.0 if person.faces_right else -1.0
    facing, speed, segment = heading, 0.0, None
    path = np.empty((round(plan.seconds * FPS), 2))
    for number in range(len(path)):
        path[number] = x, facing
        current = next((s for s in person.segments if number / FPS < s.end), person.segments[-1])
        if current is not segment and person.partner is None and current.speed:
            heading = 1.0 if current.forwards else -1.0
        segment = current
        speed += 0.35 * (segment.speed * person.height - speed)
        if (
            not plan.camera_follows
            and not person.x_range[0] <= x + heading * speed / FPS <= person.x_range[1]
            and speed > 1
        ):
            heading = 1.0 if x < WIDTH / 2 else -1.0
        x += heading * speed / FPS
        facing += np.clip(heading - facing, -2 / (_TURN_SECONDS * FPS), 2 / (_TURN_SECONDS * FPS))
    return path


def _crate(person: PersonPlan, width: float, color: Color) -> Polygon:
    """Return a box on the floor that reaches up to a person's hands, in pixels of the unmoved camera."""
    side = 1 if person.faces_right else -1
    near, far = person.x + side * 0.16 * person.height, person.x + side * (0.16 + width) * person.height
    top, bottom = person.ground - 0.58 * person.height, person.ground - 0.01 * person.height
    return Polygon(np.array([[near, top], [far, top], [far, bottom], [near, bottom]]), color)


def _draw_background(rng: np.random.Generator) -> tuple[np.ndarray, Color, Color]:
    """Draw a room with textured wall, floor and furniture; return it and the mean wall and floor colors."""
    scale = _SUPERSAMPLING
    width, height = (WIDTH + 2 * _MARGIN[0]) * scale, (HEIGHT + 2 * _MARGIN[1]) * scale
    horizon = round((_MARGIN[1] + HEIGHT * rng.uniform(_HORIZON - 0.06, _HORIZON + 0.1)) * scale)
    wall, floor = _dull_color(rng), _dull_color(rng)
    room = np.empty((height, width, 3), np.float32)
    room[:horizon], room[horizon:] = wall, floor
    rows, columns = np.mgrid[:height, :width].astype(np.float32)

    angle, spacing = rng.uniform(0, pi), rng.uniform(12, 60)
    stripes = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * (2 * pi / spacing))
    room[:horizon] += (stripes * rng.uniform(0, 9))[:horizon, :, None]
    boards = np.sin((columns - width / 2) / np.maximum(rows - horizon + 60, 1) * rng.uniform(20, 60))
    room[horizon:] += (boards * rng.uniform(2, 9))[horizon:, :, None]

    for _ in range(rng.integers(2, 5)):  # pictures and windows
        _draw_block(
            room,
            rng,
            wall,
            bottom=horizon - rng.uniform(20, 110),
            size=(rng.uniform(24, 90), rng.uniform(20, 80)),
        )
    for _ in range(rng.integers(1, 4)):  # cabinets and tables in front of the wall
        _draw_block(
            room,
            rng,
            wall,
            bottom=horizon + rng.uniform(4, 26),
            size=(rng.uniform(40, 120), rng.uniform(40, 130)),
        )
    for cells, strength in ((6, 9.0), (24, 3.0), (96, 1.5)):
        noise = rng.standard_normal((cells, cells, 1)) + 0.4 * rng.standard_normal((cells, cells, 3))
        room += cv2.resize(
            noise.astype(np.float32) * strength, (width, height), interpolation=cv2.INTER_CUBIC
        )
    return np.clip(room, 0, 255).astype(np.uint8), _as_color(wall), _as_color(floor)


def _draw_block(
    room: np.ndarray, rng: np.random.Generator, base: np.ndarray, bottom: float, size: tuple[float, float]
) -> None:
    """Draw a rectangle or an ellipse with a darker rim, in a color close to `base`."""
    left = rng.uniform(0, room.shape[1] - size[0])
    color = tuple(float(channel) for channel in base + rng.uniform(-38, 38, size=3))
    rim = tuple(channel * 0.6 for channel in color)
    corner, opposite = (round(left), round(bottom - size[1])), (round(left + size[0]), round(bottom))
    if rng.random() < 0.8:
        cv2.rectangle(room, corner, opposite, color, cv2.FILLED)
        cv2.rectangle(room, corner, opposite, rim, 3)
    else:
        middle = ((corner[0] + opposite[0]) // 2, (corner[1] + opposite[1]) // 2)
        axes = (round(size[0] / 2), round(size[1] / 2))
        cv2.ellipse(room, middle, axes, 0, 0, 360, color, cv2.FILLED)
        cv2.ellipse(room, middle, axes, 0, 0, 360, rim, 3)


def _dull_color(rng: np.random.Generator) -> np.ndarray:
    gray = rng.uniform(80, 175)
    return (gray + rng.uniform(-22, 22, size=3)).astype(np.float32)


def _as_color(values: np.ndarray) -> Color:
    return tuple(round(float(value)) for value in values)
