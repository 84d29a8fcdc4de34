"""Render the frames of a MiniMotion video from its plan."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np

from vmae_det.synthetic_data.camera import Camera, Canvas, Wave
from vmae_det.synthetic_data.drawing import SKINS, Color, Outline, contrasting_color, draw_shapes, shaded
from vmae_det.synthetic_data.mini_motion.motion import Placed, moment_at, roles
from vmae_det.synthetic_data.mini_motion.plan import (
    FPS,
    HEIGHT,
    SECONDS,
    WIDTH,
    ObjectPlan,
    ScenePlan,
    VideoPlan,
)
from vmae_det.synthetic_data.mini_motion.shapes import HandLook, hand_shapes, object_parts, placed_parts
from vmae_det.synthetic_data.rooms import as_color, draw_room

_CANVAS = Canvas(WIDTH, HEIGHT, margin=(28, 24))


class Scene:
    """A table in a room, and the look of everything on it. All videos of a scene share it."""

    def __init__(self, plan: ScenePlan) -> None:
        rng = np.random.default_rng(plan.key)
        self.plan = plan
        self.background, wall, _ = draw_room(rng, _CANVAS)
        self.table = _draw_table(rng, self.background, plan)
        self.hand = HandLook(
            skin=SKINS[rng.integers(len(SKINS))],
            sleeve=contrasting_color(rng, [self.table, wall], (0.2, 1.0), (0.2, 1.0)),
            sleeve_start=rng.choice([4.0, 16.0, 60.0]),
            size=rng.uniform(0.92, 1.12),
        )
        avoided = [self.table, wall, self.hand.skin]
        self.parts = {}
        for item in (plan.small, plan.cover, *plan.others):
            body = contrasting_color(rng, avoided, (0.45, 1.0), (0.35, 1.0))
            pattern = contrasting_color(rng, [body], (0.2, 1.0), (0.4, 1.0))
            detail = contrasting_color(rng, [body, pattern], (0.3, 1.0), (0.3, 1.0))
            avoided.append(body)
            self.parts[item] = object_parts(
                item.kind, item.width / item.height, item.variant, (body, pattern, detail)
            )
        self.camera = Camera(
            pan=Wave(rng.uniform(1, 6), rng.uniform(0.1, 0.25), rng.random()),
            tilt=Wave(rng.uniform(0, 3), rng.uniform(0.1, 0.25), rng.random()),
            zoom=Wave(rng.uniform(0, 0.07), rng.uniform(0.1, 0.25), rng.random()),
            light=Wave(rng.uniform(0, 0.1), rng.uniform(0.1, 0.3), rng.random()),
        )
        # The shake of a camera in the hand.
        self.shake = [Wave(rng.uniform(0.2, 0.9), rng.uniform(1.2, 2.6), rng.random()) for _ in range(2)]
        to_background = _CANVAS.view(
            WIDTH / 2 - _CANVAS.margin[0], HEIGHT / 2 - _CANVAS.margin[1], 1.0, _CANVAS.scale
        )
        for item in sorted(plan.others, key=lambda item: item.y):
            self._draw_object(self.background, to_background, item, Placed(item.x, item.y))

    def draw(self, action: str, number: int) -> np.ndarray:
        """Return a frame, uint8 RGB (HEIGHT, WIDTH, 3)."""
        time = number / FPS
        moment = moment_at(self.plan, action, time)
        camera = self.camera
        view = _CANVAS.view(
            WIDTH / 2 + camera.pan.at(time) + self.shake[0].at(time),
            HEIGHT / 2 + camera.tilt.at(time) + self.shake[1].at(time),
            1 + camera.zoom.at(time),
            _CANVAS.scale,
        )
        frame = _CANVAS.visible_background(self.background, view)
        moved, other = roles(self.plan, action)
        placed = ((other, moment.other), (moved, moment.moved))  # the moved object occludes the other one
        for item, place in placed:
            self._draw_shadow(frame, view, item, place)
        for item, place in placed:
            self._draw_object(frame, view, item, place)
        points = np.array([moment.palm, moment.aim, self.plan.elbow]) @ view[:, :2].T + view[:, 2]
        draw_shapes(frame, hand_shapes(*points, moment.grip, self.hand, view[0, 0]))
        return _CANVAS.finish(frame, 1 + camera.light.at(time))

    def _draw_object(self, image: np.ndarray, view: np.ndarray, item: ObjectPlan, place: Placed) -> None:
        x, y = view[:, :2] @ (place.x, place.y) + view[:, 2]
        draw_shapes(image, placed_parts(self.parts[item], item.height * view[0, 0], x, y, place.turn))

    def _draw_shadow(self, image: np.ndarray, view: np.ndarray, item: ObjectPlan, place: Placed) -> None:
        """Draw the shadow of an object on the table. It shrinks when the object rises."""
        ground = max(item.y, place.y)
        if ground > item.y + 2 or (place.x - self.plan.edge) * self.plan.side > 0:
            return  # next to the table
        shrink = max(1 - (ground - place.y) / 60, 0.4)
        x, y = view[:, :2] @ (place.x, ground) + view[:, 2]
        axes = round(0.52 * item.width * shrink * view[0, 0]), round(2.6 * shrink * view[0, 0])
        cv2.ellipse(
            image, (round(x), round(y)), axes, 0, 0, 360, shaded(self.table, 0.6), cv2.FILLED, cv2.LINE_AA
        )


@lru_cache(maxsize=2)  # the videos of a scene are rendered one after another
def _scene(plan: ScenePlan) -> Scene:
    return Scene(plan)


def frames(plan: VideoPlan) -> Iterator[np.ndarray]:
    """Yield all frames of a video in order, uint8 RGB (HEIGHT, WIDTH, 3)."""
    scene = _scene(plan.scene)
    for number in range(SECONDS * FPS):
        yield scene.draw(plan.action, number)


def _draw_table(rng: np.random.Generator, room: np.ndarray, plan: ScenePlan) -> Color:
    """Draw a table onto the background, in place, and return the color of its top."""
    wood = np.array([(150, 105, 65), (190, 150, 105), (110, 75, 50), (205, 200, 190), (95, 100, 110)], float)
    color = as_color(np.clip(wood[rng.integers(len(wood))] + rng.uniform(-18, 18, size=3), 0, 255))
    side, scale = plan.side, _CANVAS.scale
    offset = np.array(_CANVAS.margin)
    far = WIDTH / 2 - side * WIDTH  # beyond the other side of the frame
    slant = rng.uniform(6, 12)

    def pixels(*points: tuple[float, float]) -> np.ndarray:
        return (np.array(points) + offset) * scale

    back, front, edge = plan.back, plan.front, plan.edge
    thick = rng.uniform(5, 8)
    leg = edge - side * 3
    top = pixels((far, back), (edge - side * slant, back), (edge, front), (far, front))
    shapes = [
        Outline(
            pixels((leg, front), (leg - side * 7, front), (leg - side * 7, 140), (leg, 140)),
            shaded(color, 0.5),
        ),
        Outline(
            pixels((far, front), (edge, front), (edge, front + thick), (far, front + thick)),
            shaded(color, 0.7),
        ),
        Outline(top, color),
    ]
    draw_shapes(room, shapes)
    for _ in range(rng.integers(0, 14)):  # grain
        y = rng.uniform(back + 1, front - 1)
        right = edge - side * slant * (front - y) / (front - back) - side
        x = np.sort(rng.uniform(0, WIDTH, size=2))
        x = np.clip(x, None, right) if side > 0 else np.clip(x, right, None)
        line = pixels((x[0], y), (x[1], y))
        tone = shaded(color, rng.uniform(0.86, 1.1))
        start, end = (tuple(round(float(value)) for value in point) for point in line)
        cv2.line(room, start, end, tone, 1, cv2.LINE_AA)
    return color
