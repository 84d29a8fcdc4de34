"""From the plan of a MiniAVA video to its frames, and to where everybody is at the keyframes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sin

import cv2
import numpy as np

from vmae_det.mini_ava.figures import (
    Colour,
    Panel,
    Stroke,
    draw_look,
    paint,
    paint_silhouette,
    shapes_of,
)
from vmae_det.mini_ava.motion import Joints, joints_of, pose_at
from vmae_det.mini_ava.plan import FPS, HEIGHT, WIDTH, PersonPlan, VideoPlan

_SUPERSAMPLING = 2  # pictures are painted at this multiple of their size and averaged down
_MARGIN = (WIDTH // 3, HEIGHT // 5)  # of background beyond each border of the unmoved camera, pixels
_HORIZON = 0.62  # where the wall meets the floor, in heights of the picture
_TURN_SECONDS = 0.2


@dataclass(frozen=True)
class PersonTruth:
    """A person at a keyframe: the box (x1, y1, x2, y2 in [0, 1]) of what can be seen, and its share."""

    person: int
    box: tuple[float, float, float, float]
    visible: float
    actions: tuple[str, ...]


@dataclass(frozen=True)
class _Camera:
    """Slow sine movements about the middle; each is (size, cycles per second, phase in cycles)."""

    pan: tuple[float, float, float]  # pixels
    tilt: tuple[float, float, float]
    zoom: tuple[float, float, float]  # relative
    light: tuple[float, float, float]  # relative brightness

    @staticmethod
    def at(movement: tuple[float, float, float], time: float) -> float:
        size, frequency, phase = movement
        return size * sin(2 * pi * (frequency * time + phase))


class Scene:
    """One video, ready to paint."""

    def __init__(self, plan: VideoPlan) -> None:
        rng = np.random.default_rng(plan.random_key)
        self._plan = plan
        self._background, wall, floor = _paint_background(rng)
        self._looks = [draw_look(rng, [wall, floor]) for _ in plan.people]
        self._camera = _Camera(
            pan=(rng.uniform(3, 12), rng.uniform(0.03, 0.1), rng.random()),
            tilt=(rng.uniform(0, 3), rng.uniform(0.03, 0.1), rng.random()),
            zoom=(rng.uniform(0.0, 0.06), rng.uniform(0.03, 0.1), rng.random()),
            light=(rng.uniform(0.0, 0.1), rng.uniform(0.05, 0.2), rng.random()),
        )
        self._paths = [_path(person, plan) for person in plan.people]
        self._crates = [
            _crate(person, rng.uniform(0.2, 0.32), look.box)
            for person, look in zip(plan.people, self._looks)
            if person.crate
        ]
        # Whoever stands lower in the picture is nearer and hides the others.
        self._back_to_front = sorted(range(len(plan.people)), key=lambda i: plan.people[i].ground)

    def frames(self) -> Iterator[np.ndarray]:
        """All frames in order, uint8 RGB (HEIGHT, WIDTH, 3)."""
        for number in range(round(self._plan.seconds * FPS)):
            yield self._paint(number)

    def truth(self, second: int) -> list[PersonTruth]:
        """Every person of the frame at `second` of the file that shows at least one pixel."""
        number = second * FPS
        # A canvas with a border all around, to tell how much of a person is outside of the picture.
        border = WIDTH
        inside = (slice(border, border + HEIGHT), slice(border, border + WIDTH))
        owner = np.zeros((HEIGHT + 2 * border, WIDTH + 2 * border), np.uint8)
        areas = {}
        for i in self._back_to_front:
            shapes = self._shapes(i, number, 1, (border, border))
            alone = np.zeros_like(owner)
            paint_silhouette(alone, shapes, 1)
            areas[i] = int(np.count_nonzero(alone))
            paint_silhouette(owner, shapes, i + 1)
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
        """The (2, 3) matrix from pixels of the unmoved camera to pixels of the picture at `scale`."""
        time = number / FPS
        zoom = 1 + self._camera.at(self._camera.zoom, time)
        x = WIDTH / 2 + self._camera.at(self._camera.pan, time)
        y = HEIGHT / 2 + self._camera.at(self._camera.tilt, time)
        if self._plan.followed:
            x += self._paths[0][number, 0] - self._plan.people[0].x
        return scale * np.array([[zoom, 0, WIDTH / 2 - zoom * x], [0, zoom, HEIGHT / 2 - zoom * y]])

    def _paint(self, number: int) -> np.ndarray:
        view = self._view(number, _SUPERSAMPLING)
        picture = self._background_seen(view)
        paint(
            picture,
            [Panel(crate.corners @ view[:, :2].T + view[:, 2], crate.colour) for crate in self._crates],
        )
        for i in self._back_to_front:
            paint(picture, self._shapes(i, number, _SUPERSAMPLING))
        picture = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        return cv2.convertScaleAbs(picture, alpha=1 + self._camera.at(self._camera.light, number / FPS))

    def _background_seen(self, view: np.ndarray) -> np.ndarray:
        # The background is painted at the supersampled size already and begins a margin outside the picture.
        to_background = view.copy()
        to_background[:, :2] /= _SUPERSAMPLING
        to_background[:, 2] -= view[:, :2] @ np.array(_MARGIN)
        size = (WIDTH * _SUPERSAMPLING, HEIGHT * _SUPERSAMPLING)
        return cv2.warpAffine(
            self._background, to_background, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )

    def _shapes(
        self, index: int, number: int, scale: int, offset: tuple[float, float] = (0, 0)
    ) -> list[Stroke | Panel]:
        person, look = self._plan.people[index], self._looks[index]
        x, facing = self._paths[index][number]
        partner = None if person.partner is None else self._plan.people[person.partner]
        reach = abs(partner.x - person.x) / person.height if partner else 0.0
        pose = pose_at(person.segments, number / FPS, reach)
        view = self._view(number, scale)
        # One linear map from heights, y up, to pixels, y down.
        size = person.height * view[0, 0]
        stretch = np.array([size * facing, -size])
        shift = view[:, :2] @ (x, person.ground) + view[:, 2] + offset
        joints = Joints(*(points * stretch + shift for points in joints_of(pose, look.depth)))
        return shapes_of(joints, look, size, carrying=pose.carrying > 0.5)


def _path(person: PersonPlan, plan: VideoPlan) -> np.ndarray:
    """Where a person is and faces in every frame: (frames, 2), pixels and -1 (left) to 1 (right)."""
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
            not plan.followed
            and not person.reach[0] <= x + heading * speed / FPS <= person.reach[1]
            and speed > 1
        ):
            heading = 1.0 if x < WIDTH / 2 else -1.0
        x += heading * speed / FPS
        facing += np.clip(heading - facing, -2 / (_TURN_SECONDS * FPS), 2 / (_TURN_SECONDS * FPS))
    return path


def _crate(person: PersonPlan, width: float, colour: Colour) -> Panel:
    """A box on the floor that reaches up to a person's hands; pixels of the unmoved camera."""
    side = 1 if person.faces_right else -1
    near, far = person.x + side * 0.16 * person.height, person.x + side * (0.16 + width) * person.height
    top, bottom = person.ground - 0.58 * person.height, person.ground - 0.01 * person.height
    return Panel(np.array([[near, top], [far, top], [far, bottom], [near, bottom]]), colour)


def _paint_background(rng: np.random.Generator) -> tuple[np.ndarray, Colour, Colour]:
    """A room: wall, floor, furniture, all textured; and the mean colours of wall and floor."""
    scale = _SUPERSAMPLING
    width, height = (WIDTH + 2 * _MARGIN[0]) * scale, (HEIGHT + 2 * _MARGIN[1]) * scale
    horizon = round((_MARGIN[1] + HEIGHT * rng.uniform(_HORIZON - 0.06, _HORIZON + 0.1)) * scale)
    wall, floor = _dull_colour(rng), _dull_colour(rng)
    room = np.empty((height, width, 3), np.float32)
    room[:horizon], room[horizon:] = wall, floor
    rows, columns = np.mgrid[:height, :width].astype(np.float32)

    angle, spacing = rng.uniform(0, pi), rng.uniform(12, 60)
    stripes = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * (2 * pi / spacing))
    room[:horizon] += (stripes * rng.uniform(0, 9))[:horizon, :, None]
    boards = np.sin((columns - width / 2) / np.maximum(rows - horizon + 60, 1) * rng.uniform(20, 60))
    room[horizon:] += (boards * rng.uniform(2, 9))[horizon:, :, None]

    for _ in range(rng.integers(2, 5)):  # pictures and windows
        _block(
            room,
            rng,
            wall,
            bottom=horizon - rng.uniform(20, 110),
            size=(rng.uniform(24, 90), rng.uniform(20, 80)),
        )
    for _ in range(rng.integers(1, 4)):  # cupboards and tables against the wall
        _block(
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
    return np.clip(room, 0, 255).astype(np.uint8), _as_colour(wall), _as_colour(floor)


def _block(
    room: np.ndarray, rng: np.random.Generator, near: np.ndarray, bottom: float, size: tuple[float, float]
) -> None:
    """A rectangle or an ellipse with a darker rim, not far in colour from `near`."""
    left = rng.uniform(0, room.shape[1] - size[0])
    colour = tuple(float(channel) for channel in near + rng.uniform(-38, 38, size=3))
    rim = tuple(channel * 0.6 for channel in colour)
    corner, opposite = (round(left), round(bottom - size[1])), (round(left + size[0]), round(bottom))
    if rng.random() < 0.8:
        cv2.rectangle(room, corner, opposite, colour, cv2.FILLED)
        cv2.rectangle(room, corner, opposite, rim, 3)
    else:
        middle = ((corner[0] + opposite[0]) // 2, (corner[1] + opposite[1]) // 2)
        axes = (round(size[0] / 2), round(size[1] / 2))
        cv2.ellipse(room, middle, axes, 0, 0, 360, colour, cv2.FILLED)
        cv2.ellipse(room, middle, axes, 0, 0, 360, rim, 3)


def _dull_colour(rng: np.random.Generator) -> np.ndarray:
    grey = rng.uniform(80, 175)
    return (grey + rng.uniform(-22, 22, size=3)).astype(np.float32)


def _as_colour(values: np.ndarray) -> Colour:
    return tuple(round(float(value)) for value in values)
