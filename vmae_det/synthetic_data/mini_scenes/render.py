"""Render the frames of a MiniScenes video from its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from vmae_det.synthetic_data.camera import Camera, Wave
from vmae_det.synthetic_data.drawing import draw_shapes
from vmae_det.synthetic_data.mini_ava.figures import random_appearance
from vmae_det.synthetic_data.mini_ava.render import Gear, figure_shapes, person_path
from vmae_det.synthetic_data.mini_scenes import gear, indoor_places, outdoor_places
from vmae_det.synthetic_data.mini_scenes.painter import CANVAS, HEIGHT, WIDTH, Element, Painter, transformed
from vmae_det.synthetic_data.mini_scenes.plan import CLASSES, FPS, SECONDS, VideoPlan

_GLOW = 0.35  # opacity of light

# For each class, its place and the gear of its people.
_PLACES: dict[str, tuple[Callable[[Painter], None], Gear | None]] = {
    "playing on the beach": (outdoor_places.beach, None),
    "skiing": (outdoor_places.snow, gear.skis),
    "hiking in the forest": (outdoor_places.forest, gear.backpack),
    "crossing the street": (outdoor_places.street, None),
    "playing football": (outdoor_places.football_field, None),
    "gardening": (outdoor_places.garden, gear.watering_can),
    "performing on stage": (indoor_places.stage, gear.microphone),
    "cooking": (indoor_places.kitchen, gear.apron),
    "exercising in a gym": (indoor_places.gym, gear.barbell),
    "playing basketball": (indoor_places.basketball_court, gear.cap),
    "shopping": (indoor_places.supermarket, gear.basket),
    "teaching in a classroom": (indoor_places.classroom, None),
}


class Scene:
    """Renderer of one video."""

    def __init__(self, plan: VideoPlan) -> None:
        rng = np.random.default_rng(plan.random_key)
        self._plan = plan
        paint, typical_gear = _PLACES[CLASSES[plan.topic]]
        painter = Painter(rng)
        paint(painter)
        self._background = painter.finish()
        # Things far away come first; people stand between them.
        self._elements = sorted(painter.elements, key=lambda element: element.y)
        middle = self._background[self._background.shape[0] // 2 :].reshape(-1, 3).mean(axis=0)
        ground = tuple(round(float(value)) for value in middle)
        self._people = [
            (
                person,
                random_appearance(rng, [ground]),
                person_path(person, SECONDS, WIDTH / 2),
                typical_gear if has_gear else None,
            )
            for person, has_gear in zip(plan.people, plan.has_gear)
        ]
        self._zoom = rng.uniform(1.06, 1.6)  # of the unmoved camera, and where it points to
        free = np.array([WIDTH, HEIGHT]) / 2 * (1 - 1 / self._zoom) + (8, 4)
        self._center = np.array([WIDTH, HEIGHT]) / 2 + rng.uniform(-1, 1, size=2) * free
        self._camera = Camera(
            pan=Wave(rng.uniform(0, 10), rng.uniform(0.08, 0.25), rng.random()),
            tilt=Wave(rng.uniform(0, 4), rng.uniform(0.08, 0.25), rng.random()),
            zoom=Wave(rng.uniform(0, 0.1), rng.uniform(0.08, 0.25), rng.random()),
            light=Wave(rng.uniform(0, 0.12), rng.uniform(0.1, 0.3), rng.random()),
        )
        self._light = _random_light(rng)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield all frames in order, uint8 RGB (HEIGHT, WIDTH, 3)."""
        for number in range(SECONDS * FPS):
            yield self._draw_frame(number)

    def _draw_frame(self, number: int) -> np.ndarray:
        time, camera = number / FPS, self._camera
        view = CANVAS.view(
            self._center[0] + camera.pan.at(time),
            self._center[1] + camera.tilt.at(time),
            self._zoom + camera.zoom.at(time),
            CANVAS.scale,
        )
        frame = CANVAS.visible_background(self._background, view)
        people = list(self._people)
        for element in self._elements:
            while people and people[0][0].ground < element.y:
                self._draw_person(frame, people.pop(0), number, view)
            self._draw_element(frame, element, time, view)
        for person in people:
            self._draw_person(frame, person, number, view)
        return cv2.transform(CANVAS.finish(frame, 1 + camera.light.at(time)), self._light)

    def _draw_person(self, frame: np.ndarray, entry: tuple, number: int, view: np.ndarray) -> None:
        person, appearance, path, own_gear = entry
        shapes = figure_shapes(person, appearance, path[number], number / FPS, view, gear=own_gear)
        draw_shapes(frame, shapes)

    def _draw_element(self, frame: np.ndarray, element: Element, time: float, view: np.ndarray) -> None:
        shapes = [transformed(shape, view) for shape in element.shapes(time)]
        if not element.glow:
            draw_shapes(frame, shapes)
            return
        light = frame.copy()
        for shape in shapes:
            cv2.fillPoly(light, [np.round(shape.corners).astype(np.int32)], shape.color, cv2.LINE_AA)
        cv2.addWeighted(light, _GLOW, frame, 1 - _GLOW, 0, dst=frame)


def _random_light(rng: np.random.Generator) -> np.ndarray:
    """Return the matrix (3, 3) from colors to colors in a random light, from dull to colored."""
    gray = rng.uniform(0, 0.6)
    gains = rng.uniform(0.75, 1.3) * rng.uniform(0.85, 1.15, size=3)
    return gains[:, None] * ((1 - gray) * np.eye(3) + gray * np.array([0.3, 0.59, 0.11]))
