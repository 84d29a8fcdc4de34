"""What drawing costs, in milliseconds of processor time a frame: python tools/measure_overlay.py

People tremble in place, and have other scores every 25 frames. Plates are kept in memory, as in a video.
"""

import time

import numpy as np

from vmae_det.rendering import ActionLabel, PersonOverlay, draw_people

SIZES = [(340, 256), (1280, 720), (1920, 1080), (3840, 2160)]
PEOPLE = [0, 1, 5, 20]
FRAMES = 50
ACTIONS = [
    ("stand", "PERSON_MOVEMENT"),
    ("carry/hold (an object)", "OBJECT_MANIPULATION"),
    ("talk to (e.g., self, a person, a group)", "PERSON_INTERACTION"),
]


def main() -> None:
    """Print the median and, in brackets, the longest of the frames."""
    print("|", " | ".join(["frame", *map(str, PEOPLE)]), "|")
    for width, height in SIZES:
        frame = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        cells = []
        for count in PEOPLE:
            times, memory = [], {}
            for people in _scenes(count, width, height):
                began = time.process_time()
                draw_people(frame, people, memory=memory)
                times.append(1000 * (time.process_time() - began))
            cells.append(f"{np.median(times[1:]):.2f} ({max(times[1:]):.1f})")
        print(f"| {width} x {height} |", " | ".join(cells), "|", flush=True)


def _scenes(count: int, width: int, height: int) -> list[list[PersonOverlay]]:
    rng = np.random.default_rng(count)
    high = rng.uniform(0.25, 0.5, count)
    wide = high * rng.uniform(0.2, 0.4, count)
    middle = rng.uniform((0.08, 0.3), (0.92, 0.7), (count, 2))
    scenes = []
    for number in range(FRAMES + 1):
        if number % 25 == 0:
            scores = rng.uniform(0.3, 1, (count, len(ACTIONS)))
        swing = 0.02 * np.sin(number / 10 + np.arange(count))
        scenes.append(
            [
                PersonOverlay(
                    ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height),
                    [ActionLabel(name, s, kind) for (name, kind), s in zip(ACTIONS, scores[person])],
                    person + 1,
                )
                for person, (x, y, w, h) in enumerate(zip(middle[:, 0] + swing, middle[:, 1], wide, high))
            ]
        )
    return scenes


if __name__ == "__main__":
    main()
