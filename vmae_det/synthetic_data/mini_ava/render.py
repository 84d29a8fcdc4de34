"""Render the frames of a MiniAVA video from its plan, and compute its ground truth at the keyframes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vmae_det.synthetic_data.camera import Camera, Canvas, Wave
from vmae_det.synthetic_data.drawing import Color, Polygon, Shape, draw_shapes, draw_silhouette
from vmae_det.synthetic_data.mini_ava.figures import Appearance, person_shapes, random_appearance
from vmae_det.synthetic_data.mini_ava.motion import Joints, joints_of, pose_at
from vmae_det.synthetic_data.mini_ava.plan import FPS, HEIGHT, WIDTH, PersonPlan, VideoPlan
from vmae_det.synthetic_data.rooms import draw_room

_CANVAS = Canvas(WIDTH, HEIGHT, margin=(WIDTH // 3, HEIGHT // 5))
# Returns what a person wears or holds, behind and in front, from joints, height in pixels and a color.
Gear = Callable[[Joints, float, Color], tuple[list[Shape], list[Shape]]]

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


class Scene:
    """Renderer of one video."""

    def __init__(self, plan: VideoPlan) -> None:
        rng = np.random.default_rng(plan.random_key)
        self._plan = plan
        self._background, wall, floor = draw_room(rng, _CANVAS)
        self._appearances = [random_appearance(rng, [wall, floor]) for _ in plan.people]
        self._camera = Camera(
            pan=Wave(rng.uniform(3, 12), rng.uniform(0.03, 0.1), rng.random()),
            tilt=Wave(rng.uniform(0, 3), rng.uniform(0.03, 0.1), rng.random()),
            zoom=Wave(rng.uniform(0.0, 0.06), rng.uniform(0.03, 0.1), rng.random()),
            light=Wave(rng.uniform(0.0, 0.1), rng.uniform(0.05, 0.2), rng.random()),
        )
        self._paths = [
            person_path(person, plan.seconds, WIDTH / 2, turns=not plan.camera_follows)
            for person in plan.people
        ]
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
        time = number / FPS
        x = WIDTH / 2 + self._camera.pan.at(time)
        y = HEIGHT / 2 + self._camera.tilt.at(time)
        if self._plan.camera_follows:
            x += self._paths[0][number, 0] - self._plan.people[0].x
        return _CANVAS.view(x, y, 1 + self._camera.zoom.at(time), scale)

    def _draw_frame(self, number: int) -> np.ndarray:
        view = self._view(number, _CANVAS.scale)
        frame = _CANVAS.visible_background(self._background, view)
        draw_shapes(
            frame,
            [Polygon(crate.corners @ view[:, :2].T + view[:, 2], crate.color) for crate in self._crates],
        )
        for i in self._back_to_front:
            draw_shapes(frame, self._shapes(i, number, _CANVAS.scale))
        return _CANVAS.finish(frame, 1 + self._camera.light.at(number / FPS))

    def _shapes(
        self, index: int, number: int, scale: int, offset: tuple[float, float] = (0, 0)
    ) -> list[Shape]:
        person = self._plan.people[index]
        partner = None if person.partner is None else self._plan.people[person.partner]
        return figure_shapes(
            person,
            self._appearances[index],
            self._paths[index][number],
            number / FPS,
            self._view(number, scale),
            offset,
            partner_distance=abs(partner.x - person.x) / person.height if partner else 0.0,
        )


def figure_shapes(
    person: PersonPlan,
    appearance: Appearance,
    position: np.ndarray,
    time: float,
    view: np.ndarray,
    offset: tuple[float, float] = (0, 0),
    partner_distance: float = 0.0,
    gear: Gear | None = None,
) -> list[Shape]:
    """Return the shapes of a person at `time`, in pixels of the frame.

    Args:
        position: x in pixels of the unmoved camera, and direction from -1 (left) to 1 (right).
        view: of `Canvas.view`.
        offset: added to the result, in pixels.
        partner_distance: distance to the partner in units of the person's height.
        gear: adds what the person wears or holds.
    """
    x, facing = position
    pose = pose_at(person.segments, time, partner_distance)
    # A linear map from units of height, with y up, to pixels, with y down.
    size = person.height * view[0, 0]
    stretch = np.array([size * facing, -size])
    shift = view[:, :2] @ (x, person.ground) + view[:, 2] + offset
    joints = Joints(*(points * stretch + shift for points in joints_of(pose, appearance.depth)))
    shapes = person_shapes(joints, appearance, size, carrying=pose.carrying > 0.5)
    if gear is None:
        return shapes
    behind, in_front = gear(joints, size, appearance.box)
    return [*behind, *shapes, *in_front]


def person_path(person: PersonPlan, seconds: float, middle: float, turns: bool = True) -> np.ndarray:
    """Return position (pixels) and direction (-1 left to 1 right) of a person in every frame: (frames, 2).

    Args:
        seconds: length of the video.
        middle: x of the middle of the frame, towards which people turn around.
        turns: whether people turn around at the ends of their range.
    """
    x, heading = person.x, 1.0 if person.faces_right else -1.0
    facing, speed, segment = heading, 0.0, None
    path = np.empty((round(seconds * FPS), 2))
    for number in range(len(path)):
        path[number] = x, facing
        current = next((s for s in person.segments if number / FPS < s.end), person.segments[-1])
        if current is not segment and person.partner is None and current.speed:
            heading = 1.0 if current.forwards else -1.0
        segment = current
        speed += 0.35 * (segment.speed * person.height - speed)
        if turns and not person.x_range[0] <= x + heading * speed / FPS <= person.x_range[1] and speed > 1:
            heading = 1.0 if x < middle else -1.0
        x += heading * speed / FPS
        facing += np.clip(heading - facing, -2 / (_TURN_SECONDS * FPS), 2 / (_TURN_SECONDS * FPS))
    return path


def _crate(person: PersonPlan, width: float, color: Color) -> Polygon:
    """Return a box on the floor that reaches up to a person's hands, in pixels of the unmoved camera."""
    side = 1 if person.faces_right else -1
    near, far = person.x + side * 0.16 * person.height, person.x + side * (0.16 + width) * person.height
    top, bottom = person.ground - 0.58 * person.height, person.ground - 0.01 * person.height
    return Polygon(np.array([[near, top], [far, top], [far, bottom], [near, bottom]]), color)
