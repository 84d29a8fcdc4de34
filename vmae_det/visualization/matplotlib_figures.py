"""Helpers for matplotlib charts: new figures, colors, text, and atomic saving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colors of Okabe and Ito (2008) with enough contrast on white. Color-blind people can distinguish them.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SUFFIXES = (".png", ".svg", ".pdf")
INK, GRID = "#3c3c3c", "#e1e1e1"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise not_installed("matplotlib") from None
    return Figure(figsize=(width, height), layout="constrained")


def not_installed(package: str) -> UserError:
    """Return the error for a missing package that only charts require."""
    return UserError(f'{package}, which this requires, is not installed: pip install "vmae_det[plots]"')


def escape_text(text: str) -> str:
    """Escape a text so that matplotlib draws it literally.

    Dollar signs start no formula, and a leading underscore does not hide a legend entry. Bytes that are not
    UTF-8 become question marks.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def style_axes(axes: Any) -> None:
    """Draw a light grid; hide the top and right spines."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelcolor=INK, labelsize=9)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure atomically, in the format of the suffix; return the path.

    Raises:
        UserError: the suffix is not in SUFFIXES, or the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    import matplotlib

    # Keep text as text, and write identical files for identical charts.
    style = {"svg.fonttype": "none", "svg.hashsalt": "vmae_det"}
    no_date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with atomic_write(path) as temporary, matplotlib.rc_context(style):
        figure.savefig(temporary, dpi=130, metadata=no_date.get(path.suffix))
    return path
