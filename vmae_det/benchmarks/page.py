"""`benchmark page`: size of the HTML page of a long, crowded video, and its speed in a browser."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import ActionDetections
from vmae_det.rendering.page import MIN_SCORE, write_page
from vmae_det.utils.errors import UserError
from vmae_det.video.writer import VideoWriter

_SIZE, _RATE = (64, 48), 25  # of the video, whose frames are gray so that its size is negligible
_MEASURE_SCRIPT = """
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


@dataclass(frozen=True)
class PageBenchmark:
    """Result of the benchmark.

    Attributes:
        rows: persons in all keyframes together.
        scores_per_row: mean number of scores that the page stores per row.
        video_bytes, page_bytes: sizes of the video, and of the page that includes it.
        write_seconds: time to write the page.
        browser_ms: milliseconds of operations in the browser, by name.
    """

    rows: int
    scores_per_row: float
    video_bytes: int
    page_bytes: int
    write_seconds: float
    browser_ms: dict[str, float]

    def report(self) -> str:
        """Return a line for each measurement."""
        lines = [
            f"{self.rows} rows, {self.scores_per_row:.1f} scores each",
            f"video: {self.video_bytes / 2**20:.1f} MiB",
            f"page with the video: {self.page_bytes / 2**20:.1f} MiB",
            f"write the page: {self.write_seconds:.1f} s",
        ]
        return "\n".join(lines + [f"{name}: {value:.1f} ms" for name, value in self.browser_ms.items()])

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return asdict(self)


def benchmark_page(hours: float, people: int, actions: int) -> PageBenchmark:
    """Write the page of a synthetic video with a keyframe per second, and open it in Chromium.

    Args:
        hours: length of the video.
        people: persons in each keyframe.
        actions: number of classes.

    Raises:
        UserError: selenium, chromium or chromedriver is not installed.
    """
    browser, driver = _find_browser()
    seconds = max(round(hours * 3600), 1)
    with TemporaryDirectory(prefix="vmae_det_benchmark_") as folder:
        video = Path(folder) / "long.mp4"
        _write_video(video, seconds)
        detections = _random_detections(video, seconds, people, actions)
        start = time.perf_counter()
        page = write_page(detections, Path(folder) / "page.html")
        write_seconds = time.perf_counter() - start
        return PageBenchmark(
            rows=len(detections),
            scores_per_row=float((detections.scores >= MIN_SCORE).sum() / len(detections)),
            video_bytes=video.stat().st_size,
            page_bytes=page.stat().st_size,
            write_seconds=write_seconds,
            browser_ms=_measure_in_browser(page, browser, driver),
        )


def _find_browser() -> tuple[str, str]:
    """Return the paths of chromium and chromedriver."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        raise UserError(
            "benchmark page needs selenium, which is not installed: pip install selenium"
        ) from None
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise UserError(f"benchmark page needs {' and '.join(missing)} on PATH")
    return paths["chromium"], paths["chromedriver"]


def _write_video(path: Path, seconds: int) -> None:
    frame = np.full((*_SIZE[::-1], 3), 128, np.uint8)
    with VideoWriter(path, *_SIZE, fps=_RATE) as writer:
        for _ in range(seconds * _RATE):
            writer.write(frame)


def _random_detections(video: Path, seconds: int, people: int, actions: int) -> ActionDetections:
    """Return persons that do not move. Each performs four actions from time to time; other scores are low."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.75, (people, 2))
    boxes = np.concatenate([corner, corner + np.array([0.12, 0.24])], axis=1)
    scores = rng.beta(0.35, 30, (seconds, people, actions)).astype(np.float32)
    for person in range(people):
        for action in rng.choice(actions, min(4, actions), replace=False):
            active = np.sin(np.arange(seconds) / rng.uniform(20, 200) + rng.uniform(0, 6)) > 0.2
            scores[active, person, action] = rng.beta(6, 2, active.sum())
    ids = tuple(range(1, actions + 1))
    return ActionDetections(
        video=video,
        video_start=0.0,
        timestamp=np.repeat(np.arange(seconds, dtype=np.float64), people),
        boxes=np.tile(boxes, (seconds, 1)),
        person_scores=np.full(seconds * people, 0.9),
        scores=scores.reshape(-1, actions),
        label_map=LabelMap(ids, tuple(f"action {number}" for number in ids), ("",) * actions),
    )


def _measure_in_browser(page: Path, browser: str, driver: str) -> dict[str, float]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in ("headless", "no-sandbox", "disable-gpu"):
        options.add_argument(f"--{option}")
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        chrome.set_window_size(1280, 800)
        chrome.get(page.as_uri())
        return chrome.execute_script(_MEASURE_SCRIPT)
    finally:
        chrome.quit()
