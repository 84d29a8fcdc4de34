"""Draw the packages and their layers: `python docs/_ext/drawing.py` writes docs/images/packages.svg.

The layers are those of `.importlinter`, which `lint-imports` checks against the code.
"""

from __future__ import annotations

import configparser
import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "images" / "packages.svg"

PURPOSES = {
    "cli": "one file per command",
    "web": "local pages and their server",
    "benchmarks": "speed and memory",
    "doctor": "checks of a machine",
    "studies": "grids of runs, statistics",
    "visualization": "pictures for researchers",
    "rendering": "overlay, timeline, page, files",
    "inference": "from a video to detections",
    "engine": "trainer, hooks, launcher",
    "dataset_tools": "prepare, import, check, shard",
    "data": "datasets, transforms, loader",
    "solver": "optimizer, schedule",
    "checkpoint": "save, resume, weight formats",
    "evaluation": "metrics from files",
    "modeling": "networks",
    "model_zoo": "configs and weights by name",
    "synthetic_data": "the built-in datasets",
    "formats": "annotation files as arrays",
    "video": "files and streams to frames",
    "config": "keys, ranges, checks",
    "utils": "errors, files, processes",
}

WIDTH, ROW, BOX, HEIGHT, LEFT = 980, 74, 200, 54, 70


def layers() -> list[list[str]]:
    """Return the packages of each layer, from the top to the bottom."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter", encoding="utf-8")
    lines = parser["importlinter:contract:layers"]["layers"].split("\n")
    return [re.split(r"\s*[|:]\s*", line.strip()) for line in lines if line.strip()]


def draw(rows: list[list[str]]) -> str:
    """Return an SVG with a row of boxes for each layer."""
    height = ROW * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>The packages of vmae_det. A package imports only from rows below its own.</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L10 5L0 10z" fill="#64748b"/></marker></defs>',
        f'<line x1="32" y1="24" x2="32" y2="{height - 20}" stroke="#64748b" stroke-width="2" '
        'marker-end="url(#head)"/>',
        f'<text x="22" y="{height / 2}" font-size="15" fill="#475569" text-anchor="middle" '
        f'transform="rotate(-90 22 {height / 2})">imports</text>',
    ]
    for number, row in enumerate(rows):
        top = 15 + ROW * number
        gap = 16
        left = LEFT + (WIDTH - LEFT - 20 - (BOX + gap) * len(row) + gap) / 2
        for column, name in enumerate(row):
            x = left + (BOX + gap) * column
            middle = x + BOX / 2
            parts += [
                f'<rect x="{x:g}" y="{top}" width="{BOX}" height="{HEIGHT}" rx="6" fill="#eef2ff" '
                'stroke="#6366f1"/>',
                f'<text x="{middle:g}" y="{top + 23}" font-size="17" font-weight="bold" fill="#1e1b4b" '
                f'text-anchor="middle">{escape(name)}</text>',
                f'<text x="{middle:g}" y="{top + 42}" font-size="12.5" fill="#334155" '
                f'text-anchor="middle">{escape(PURPOSES[name])}</text>',
            ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    FILE.write_text(draw(layers()), encoding="utf-8")
