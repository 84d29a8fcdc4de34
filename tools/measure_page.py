"""How large the page of a long, crowded video is, and how long a browser takes to open and to draw it.

python tools/measure_page.py --hours 1 --people 20 --actions 80
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.predictor import ActionDetections
from vmae_det.rendering.page import MIN_SCORE, write_page
from vmae_det.video.writer import VideoWriter

_SIZE, _RATE = (64, 48), 25  # of the video, whose frames are grey: its own size says nothing
_TIMES = """
const milliseconds = (work) => {
  const start = performance.now();
  for (let i = 0; i < 10; i++) work();
  return (performance.now() - start) / 10;
};
for (const person of people) person.open = false;
layOutTimeline();
return { "open the page": performance.getEntriesByType("navigation")[0].loadEventEnd,
  "draw a frame's boxes": milliseconds(() => drawOverlay(choice)),
  "draw the timeline": milliseconds(() => drawTimeline()),
  "move the score": milliseconds(filtersChanged) };
"""


def main() -> None:
    """Print sizes and times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--actions", type=int, default=80)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        video = Path(folder) / "long.mp4"
        _write_video(video, round(args.hours * 3600))
        detections = _detections(video, round(args.hours * 3600), args.people, args.actions)
        held = (detections.scores >= MIN_SCORE).sum() / len(detections)
        start = time.perf_counter()
        page = write_page(detections, Path(folder) / "page.html")
        print(f"{len(detections)} rows, {held:.1f} scores each; video {video.stat().st_size / 2**20:.1f} MiB")
        print(f"page with the video: {page.stat().st_size / 2**20:.1f} MiB")
        print(f"write the page: {time.perf_counter() - start:.1f} s")
        for name, milliseconds in _in_browser(page).items():
            print(f"{name}: {milliseconds:.1f} ms")


def _write_video(path: Path, seconds: int) -> None:
    frame = np.full((*_SIZE[::-1], 3), 128, np.uint8)
    with VideoWriter(path, *_SIZE, fps=_RATE) as writer:
        for _ in range(seconds * _RATE):
            writer.write(frame)


def _detections(video: Path, seconds: int, people: int, actions: int) -> ActionDetections:
    """People who stay where they are and do four actions each, at times, among scores that are mostly low."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.75, (people, 2))
    boxes = np.concatenate([corner, corner + np.array([0.12, 0.24])], axis=1)
    scores = rng.beta(0.35, 30, (seconds, people, actions)).astype(np.float32)
    for person in range(people):
        for action in rng.choice(actions, min(4, actions), replace=False):
            active = np.sin(np.arange(seconds) / rng.uniform(20, 200) + rng.uniform(0, 6)) > 0.2
            scores[active, person, action] = rng.beta(6, 2, active.sum())
    numbers = tuple(range(1, actions + 1))
    return ActionDetections(
        video=video,
        video_start=0.0,
        timestamp=np.repeat(np.arange(seconds, dtype=np.float64), people),
        boxes=np.tile(boxes, (seconds, 1)),
        person_scores=np.full(seconds * people, 0.9),
        scores=scores.reshape(-1, actions),
        label_map=LabelMap(numbers, tuple(f"action {number}" for number in numbers), ("",) * actions),
    )


def _in_browser(page: Path) -> dict[str, float]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in ("headless", "no-sandbox", "disable-gpu"):
        options.add_argument(f"--{option}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_window_size(1280, 800)
        driver.get(page.as_uri())
        return driver.execute_script(_TIMES)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
