"""Motion of MiniMotion's videos: where objects and hand are at a time, for each class.

A motion is a function of its progress, 0 to 1. Positions between waypoints are interpolated smoothly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import cos, hypot, pi, sin

from vmae_det.synthetic_data.mini_motion.plan import COVERING, HEIGHT, WIDTH, ObjectPlan, Point, ScenePlan

_GRAVITY = 620.0  # pixels / s^2
_OUTSIDE = 34.0  # distance from the frame at which hand and held object are invisible


@dataclass(frozen=True)
class Placed:
    """An object at a moment. (x, y) is the middle of its bottom; `turn` is in radians, about its center."""

    x: float
    y: float
    turn: float = 0.0


@dataclass(frozen=True)
class Moment:
    """State of a video at a time.

    Args:
        moved: the object that the class is about.
        other: the object next to it, or under it.
        palm: center of the palm.
        aim: point to which the fingers point.
        grip: 0 for an open hand to 1 for a closed one.
    """

    moved: Placed
    other: Placed
    palm: Point
    aim: Point
    grip: float


@dataclass(frozen=True)
class _Actors:
    """Objects of a scene in the roles of a class, and the paths of a hand to them."""

    scene: ScenePlan
    moved: ObjectPlan
    other: ObjectPlan

    @property
    def ground(self) -> float:
        """y of the moved object on the table."""
        return self.moved.y

    def center(self, x: float, y: float) -> Point:
        """Return the center of the moved object whose bottom is at (x, y)."""
        return x, y - self.moved.height / 2

    def grasp(self, x: float, y: float) -> Point:
        """Return the palm of a hand that holds the moved object at (x, y)."""
        center = self.center(x, y)
        dx, dy = self.scene.elbow[0] - center[0], self.scene.elbow[1] - center[1]
        length = hypot(dx, dy)
        dx, dy = dx / length, dy / length
        # Distance from the center to the outline of the bounding ellipse, and half a palm.
        radius = 1 / hypot(dx / (self.moved.width / 2), dy / (self.moved.height / 2))
        return center[0] + dx * (radius + 2.5), center[1] + dy * (radius + 2.5)

    def outside(self, x: float, y: float) -> Point:
        """Return a position of the moved object outside the frame, from which a hand brings it to (x, y)."""
        elbow = self.scene.elbow
        if not 0 < elbow[0] < WIDTH:
            return (-_OUTSIDE if elbow[0] < 0 else WIDTH + _OUTSIDE), min(y, self.ground) - 6
        return (
            (x + 2 * elbow[0]) / 3,
            -_OUTSIDE + self.moved.height / 2 if elbow[1] < 0 else HEIGHT + _OUTSIDE,
        )

    def held(self, x: float, y: float, grip: float = 1.0) -> Moment:
        """Return the moment at which the hand holds the moved object at (x, y)."""
        return self.moment(Placed(x, y), self.grasp(x, y), self.center(x, y), grip)

    def moment(self, moved: Placed, palm: Point, aim: Point, grip: float) -> Moment:
        """Return a moment with the other object in its place."""
        return Moment(moved, Placed(self.other.x, self.other.y), palm, aim, grip)


def _smooth(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _along(progress: float, waypoints: list[tuple[float, Point]]) -> Point:
    """Return the position at `progress` on the way through points, each with the progress at its arrival."""
    for (before, a), (after, b) in pairwise(waypoints):
        if progress < after:
            weight = _smooth((progress - before) / (after - before))
            return a[0] + (b[0] - a[0]) * weight, a[1] + (b[1] - a[1]) * weight
    return waypoints[-1][1]


def _move_right(actors: _Actors, progress: float) -> Moment:
    scene = actors.scene
    middle = WIDTH / 2 - 5 * scene.side
    y = actors.ground - scene.height
    start, end = middle - scene.distance / 2, middle + scene.distance / 2
    return actors.held(*_along(progress, [(0.0, (start, y)), (1.0, (end, y))]))


def _move_up(actors: _Actors, progress: float) -> Moment:
    bottom = actors.ground - actors.scene.height / 4
    x = actors.moved.x
    return actors.held(*_along(progress, [(0.0, (x, bottom)), (1.0, (x, bottom - actors.scene.lift))]))


def _push(actors: _Actors, progress: float, falls: bool) -> Moment:
    scene, moved = actors.scene, actors.moved
    touch, y = scene.reach, actors.ground
    travel = abs(scene.edge - moved.x) + 3 if falls else scene.nudge
    end = touch + (0.3 if falls else 0.15)
    x = moved.x + scene.side * travel * _ramp((progress - touch) / (end - touch))
    gap = moved.width / 2 + 10.5  # from the palm to the center; straight fingers touch the object
    level = y - 0.4 * moved.height
    here = (x - scene.side * gap, level)
    away = _away(actors, here)
    palm = here
    if progress < touch:
        palm = _along(progress, [(0.0, away), (touch, here)])
    elif progress > end:
        stop = (moved.x + scene.side * (travel - gap), level)
        palm = _along(progress, [(end, stop), (min(end + 0.12, 0.95), stop), (1.0, away)])
    place = Placed(x, y)
    falling = (progress - end) * scene.duration
    if falls and falling > 0:
        drop = 0.5 * _GRAVITY * falling**2
        place = Placed(x + scene.side * 45 * falling, y + drop, scene.side * min(7 * falling, 2.6))
    return actors.moment(place, palm, (palm[0] + scene.side * 20, palm[1]), 0.0)


def _ramp(x: float) -> float:
    """Return a motion that starts softly and ends at full speed, 0 to 1."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (2 - x)


def _away(actors: _Actors, palm: Point) -> Point:
    """Return where the hand is outside the frame before it comes to `palm`."""
    x, y = actors.outside(*palm)
    return (x, palm[1]) if not 0 < actors.scene.elbow[0] < WIDTH else (x, y)


def _let_go(actors: _Actors, progress: float, falls_slowly: bool) -> Moment:
    scene, x = actors.scene, actors.moved.x
    top = actors.ground - scene.lift - 6
    release = 0.6 * scene.reach
    palm, aim = actors.grasp(x, top), actors.center(x, top)
    if progress <= release:
        return actors.held(x, top)
    if scene.leaves:
        away = _away(actors, palm)
        palm = _along(progress, [(release, palm), (release + 0.15, palm), (0.9, away)])
        aim = (aim[0] + palm[0] - actors.grasp(x, top)[0], aim[1] + palm[1] - actors.grasp(x, top)[1])
    grip = 1 - _smooth((progress - release) / 0.08)
    height = actors.ground - top
    if falls_slowly:
        part = min((progress - release) / (0.98 - release), 1.0)
        swing = sin(pi * scene.sway * part) * (1 - 0.3 * part)
        tilt = 0.5 * cos(pi * scene.sway * part) * min(6 * part, 1.0) * (1 - part) ** 0.3
        # It falls fastest in the middle of a swing.
        fallen = part - 0.6 * sin(2 * pi * scene.sway * part) / (2 * pi * scene.sway)
        place = Placed(x + 9 * scene.next_side * swing, top + height * fallen, scene.next_side * tilt)
    else:
        seconds = (progress - release) * scene.duration
        landing = (2 * height / _GRAVITY) ** 0.5
        if seconds < landing:
            place = Placed(x, top + 0.5 * _GRAVITY * seconds**2, 0.0)
        else:
            speed = 0.3 * _GRAVITY * landing  # after the bounce
            since = seconds - landing
            bounce = max(speed * since - 0.5 * _GRAVITY * since**2, 0.0)
            place = Placed(x, actors.ground - bounce)
    return actors.moment(place, palm, aim, grip)


def _pick_up(actors: _Actors, progress: float, pretends: bool) -> Moment:
    scene, x, y = actors.scene, actors.moved.x, actors.ground
    reach, lift = scene.reach, scene.lift
    if progress < reach + 0.1:
        palm = _along(progress, [(0.0, _away(actors, actors.grasp(x, y))), (reach, actors.grasp(x, y))])
        aim = actors.center(x, y)
        grip = _smooth((progress - reach) / 0.1)
        return actors.moment(Placed(x, y), palm, aim, grip)
    above = _along(progress, [(reach + 0.1, (x, y)), (1.0, (x, y - lift))])
    moment = actors.held(*above)
    if pretends:
        return actors.moment(Placed(x, y), moment.palm, moment.aim, 1.0)
    return moment


def _put_next_to(actors: _Actors, progress: float, pretends: bool) -> Moment:
    apart = (actors.other.width + actors.moved.width) / 2 + 1.5
    x = actors.other.x + actors.scene.next_side * apart
    if abs(x - WIDTH / 2) > 0.3 * WIDTH:  # a square crop of the frame contains it otherwise
        x = actors.other.x - actors.scene.next_side * apart
    return _put(actors, progress, (x, actors.ground), pretends)


def _cover(actors: _Actors, progress: float) -> Moment:
    return _put(actors, progress, (actors.other.x, actors.other.y + 1), pretends=False)


def _put(actors: _Actors, progress: float, target: Point, pretends: bool) -> Moment:
    """Bring the moved object from outside the frame to `target`, and leave it there or take it away again."""
    x, y = target
    arrives = actors.scene.reach + 0.16
    above = (x, y - 16)
    outside = actors.outside(*above)
    if pretends:
        near = (x, y - 2)
        way = [(0.0, outside), (actors.scene.reach, above), (arrives, near)]
        way += [(arrives + 0.08, near), (arrives + 0.2, above), (1.0, outside)]
        return actors.held(*_along(progress, way))
    if progress < arrives:
        way = [(0.0, outside), (actors.scene.reach, above), (arrives, target)]
        return actors.held(*_along(progress, way))
    grasp = actors.grasp(x, y)
    palm = _along(progress, [(arrives, grasp), (arrives + 0.1, grasp), (1.0, _away(actors, grasp))])
    center = actors.center(x, y)
    aim = (center[0] + palm[0] - grasp[0], center[1] + palm[1] - grasp[1])
    return actors.moment(Placed(x, y), palm, aim, 1 - _smooth((progress - arrives) / 0.1))


_MOTIONS: dict[str, Callable[[_Actors, float], Moment]] = {
    "moving something from left to right": _move_right,
    "moving something from right to left": lambda actors, progress: _move_right(actors, 1 - progress),
    "moving something up": _move_up,
    "moving something down": lambda actors, progress: _move_up(actors, 1 - progress),
    "pushing something so that it falls off the table": lambda a, p: _push(a, p, falls=True),
    "pushing something so that it slightly moves": lambda a, p: _push(a, p, falls=False),
    "dropping something": lambda a, p: _let_go(a, p, falls_slowly=False),
    "something falling like a feather": lambda a, p: _let_go(a, p, falls_slowly=True),
    "picking something up": lambda a, p: _pick_up(a, p, pretends=False),
    "pretending to pick something up": lambda a, p: _pick_up(a, p, pretends=True),
    "putting something next to something": lambda a, p: _put_next_to(a, p, pretends=False),
    "pretending to put something next to something": lambda a, p: _put_next_to(a, p, pretends=True),
    "covering something with something": _cover,
    "uncovering something": lambda actors, progress: _cover(actors, 1 - progress),
}


def roles(scene: ScenePlan, action: str) -> tuple[ObjectPlan, ObjectPlan]:
    """Return the moved object and the other one."""
    if scene.moves_cover or action in COVERING:
        return scene.cover, scene.small
    return scene.small, scene.cover


def moment_at(scene: ScenePlan, action: str, time: float) -> Moment:
    """Return where everything is at `time`, in seconds from the start of the video."""
    progress = min(max((time - scene.start) / scene.duration, 0.0), 1.0)
    return _MOTIONS[action](_Actors(scene, *roles(scene, action)), progress)
