"""`benchmark overlay`: CPU time of drawing the boxes and labels of a frame.

Persons sway, and their scores change every 25 frames. Rendered labels are cached, as in a video.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from vmae_det.rendering import ActionLabel, PersonOverlay, draw_people

SIZES = ((340, 256), (1280, 720), (1920, 1080), (3840, 2160))
PERSON_COUNTS = (0, 1, 5, 20)
_FRAMES = 50
_FRAMES_PER_SCORE = 25
_ACTIONS = (
    ("stand", "PERSON_MOVEMENT"),
    ("carry/hold (an object)", "OBJECT_MANIPULATION"),
    ("talk to (e.g., self, a person, a group)", "PERSON_INTERACTION"),
)


def benchmark_overlay(
    sizes: Sequence[tuple[int, int]] = SIZES, frames: int = _FRAMES, progress: bool = True
) -> list[dict[str, Any]]:
    """Measure each frame size with each number of persons.

    Args:
        sizes: (width, height) of frames.
        frames: number of measured frames, after a warm-up frame.

    Returns:
        An entry for each measurement: width, height, persons, median_ms and max_ms, in milliseconds of CPU
        time per frame.
    """
    results = []
    cases = [(size, count) for size in sizes for count in PERSON_COUNTS]
    for (width, height), count in tqdm(cases, desc="frame sizes", disable=not progress, leave=False):
        frame = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        times, cache = [], {}
        for persons in _scenes(count, width, height, frames + 1):
            start = time.process_time()
            draw_people(frame, persons, memory=cache)
            times.append(1000 * (time.process_time() - start))
        entry = {"width": width, "height": height, "persons": count}
        results.append(entry | {"median_ms": float(np.median(times[1:])), "max_ms": max(times[1:])})
    return results


def report(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table with the median and, in parentheses, the maximum over the frames."""
    lines = [
        "CPU milliseconds per frame, median (maximum), by number of persons",
        f"| {' | '.join(['frame', *map(str, PERSON_COUNTS)])} |",
        "|---" * (1 + len(PERSON_COUNTS)) + "|",
    ]
    for width, height in dict.fromkeys((entry["width"], entry["height"]) for entry in results):
        cells = [
            f"{entry['median_ms']:.2f} ({entry['max_ms']:.1f})"
            for entry in results
            if (entry["width"], entry["height"]) == (width, height)
        ]
        lines.append(f"| {width} x {height} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _scenes(count: int, width: int, height: int, frames: int) -> list[list[PersonOverlay]]:
    """Return the persons of each frame."""
    rng = np.random.default_rng(count)
    box_height = rng.uniform(0.25, 0.5, count)
    box_width = box_height * rng.uniform(0.2, 0.4, count)
    center = rng.uniform((0.08, 0.3), (0.92, 0.7), (count, 2))
    scenes = []
    for number in range(frames):
        if number % _FRAMES_PER_SCORE == 0:
            scores = rng.uniform(0.3, 1, (count, len(_ACTIONS)))
        sway = 0.02 * np.sin(number / 10 + np.arange(count))
        boxes = zip(center[:, 0] + sway, center[:, 1], box_width, box_height)
        scenes.append(
            [
                PersonOverlay(
                    ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height),
                    [ActionLabel(name, s, kind) for (name, kind), s in zip(_ACTIONS, scores[person])],
                    person + 1,
                )
                for person, (x, y, w, h) in enumerate(boxes)
            ]
        )
    return scenes
