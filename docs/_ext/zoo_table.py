"""Write the table of published weights into docs/results/model_zoo.md: `python docs/_ext/zoo_table.py`."""

from __future__ import annotations

from pathlib import Path

from vmae_det.model_zoo import WEIGHTS
from vmae_det.model_zoo.listing import HEADER, weights_table

PAGE = Path(__file__).parents[1] / "results" / "model_zoo.md"
START, END = "<!-- weights: docs/_ext/zoo_table.py -->\n", "<!-- end of weights -->\n"


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| " + " | ".join((*HEADER, "config", "source")) + " |", "|---" * (len(HEADER) + 2) + "|"]
    for name, *cells in weights_table():
        weights = WEIGHTS[name]
        cells = [f"`{name}`", *cells, f"`{weights.config}`", f"<{weights.url or weights.page}>"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the text of the page with the current table."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return before + START + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
