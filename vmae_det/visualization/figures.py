"""What charts share: matplotlib where it is installed, colours, and files written whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_det.utils.errors import UserError
from vmae_det.utils.output_files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours (2008) that show on white, told apart by all kinds of sight.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SUFFIXES = (".png", ".svg", ".pdf")
_INK, _GRID = "#3c3c3c", "#e1e1e1"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing("matplotlib") from None
    return Figure(figsize=(width, height), layout="constrained")


def missing(package: str) -> UserError:
    """The error of a package that only charts need."""
    return UserError(f'{package}, which draws this, is not installed: pip install "vmae_det[plots]"')


def plain(text: str) -> str:
    """A text as matplotlib draws it letter by letter: a dollar sign begins no formula, in a legend an
    underscore hides nothing, and bytes of a name that are no UTF-8 are question marks."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def style_axes(axes: Any) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all, in the format of the suffix; gives the path.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    import matplotlib

    # Text stays text, and the same chart is the same file.
    style = {"svg.fonttype": "none", "svg.hashsalt": "vmae_det"}
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with atomic_write(path) as temporary, matplotlib.rc_context(style):
        figure.savefig(temporary, dpi=130, metadata=dated.get(path.suffix))
    return path
