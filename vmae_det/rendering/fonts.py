"""Fits text into pictures: makes any string drawable and chooses a typeface that has its letters.

A text is drawn in the first typeface that has all of its letters: the one given by the caller, the one
included in Pillow, or a common system typeface. Letters that no typeface has lose their accents or are
replaced by question marks; symbols are dropped.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont

from vmae_det.utils.errors import UserError

logger = logging.getLogger(__name__)

# Sans-serif typefaces of Linux, Windows and macOS that together cover most scripts, in search order.
SYSTEM_TYPEFACES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc"),
    *("msyh.ttc", "YuGothR.ttc", "malgun.ttf", "PingFang.ttc", "AppleSDGothicNeo.ttc"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf"),
    *("NotoSansBengali-Regular.ttf", "NotoSansTamil-Regular.ttf", "NotoSansThai-Regular.ttf", "Nirmala.ttf"),
    "unifont.otf",
)
MAX_LETTERS = 200  # per text; more do not fit on any label

_PROBE_SIZE = 20
_UNASSIGNED = "\U0010ffff"  # in no typeface: shows the glyph that a typeface draws for missing letters
_JOINERS = "\u200c\u200d"  # invisible characters that change the shape of the letters next to them


class Text(NamedTuple):
    """A drawable text: letters and a font that has them."""

    letters: str
    font: ImageFont.FreeTypeFont

    @property
    def width(self) -> float:
        """Advance width in pixels."""
        return self.font.getlength(self.letters)


@lru_cache(maxsize=64)
def load_font(size: int, typeface: str | None = None) -> ImageFont.FreeTypeFont:
    """Load a typeface at `size` pixels per em.

    Args:
        size: pixels per em.
        typeface: a font file, or the name of a system font; None for the font included in Pillow (Aileron).

    Raises:
        UserError: the file does not exist or is not a font.
    """
    if typeface is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(typeface, size)
    except OSError:
        problem = "is not a font that FreeType can read" if Path(typeface).is_file() else "does not exist"
        raise UserError(f"{typeface}: {problem}; expected a .ttf, .otf or .ttc file") from None


@lru_cache(maxsize=1024)
def fit_text(name: str, width: float, size: int, typeface: str | None = None) -> Text:
    """Fit a name into one line: the full name, else without parentheses, else shortened with an ellipsis.

    Names in AVA contain examples, as in "talk to (e.g., self, a person, a group)". They do not fit small
    frames.

    Args:
        name: any string.
        width: maximum width in pixels.
        size: font size in pixels per em.
        typeface: as in `load_font`. Another typeface is used if it lacks letters of the name.
    """
    text = _choose_typeface(_clean(name), typeface, size)
    if text.width <= width:
        return text
    brief = " ".join(re.sub(r"\([^()]*\)", " ", text.letters).split()) or text.letters
    if text.font.getlength(brief) <= width:
        return text._replace(letters=brief)
    fits, too_many = 0, len(brief)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if text.font.getlength(brief[:middle].rstrip() + "…") <= width:
            fits = middle
        else:
            too_many = middle
    return text._replace(letters=brief[:fits].rstrip() + "…")


def _clean(name: str) -> str:
    """Remove line breaks, control characters, and marks that change the text direction."""
    name = unicodedata.normalize("NFC", name[:MAX_LETTERS])
    letters = [" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in name]
    kept = (c for c in letters if c in _JOINERS or unicodedata.category(c) != "Cf")
    return " ".join("".join(kept).split()) or "?"


def _choose_typeface(line: str, typeface: str | None, size: int) -> Text:
    """Choose the typeface that has most letters of a line, and replace the missing letters."""
    best, fewest = None, len(line) + 1
    for candidate in (*([typeface] if typeface else []), None, *SYSTEM_TYPEFACES):
        if candidate in SYSTEM_TYPEFACES and not _is_installed(candidate):
            continue
        missing = sum(not _has_letter(candidate, letter) for letter in line)
        if missing < fewest:
            best, fewest = candidate, missing
        if not missing:
            break
    shown = line
    if fewest:
        shown = "".join(c if _has_letter(best, c) else _replacement(best, c) for c in line)
        _warn_once(line)
    return Text(" ".join(shown.split()) or "?", load_font(size, best))


def _replacement(typeface: str | None, letter: str) -> str:
    """Return what to draw for a letter that the typeface lacks."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    if plain != letter and all(_has_letter(typeface, c) for c in plain):
        return plain
    return "?" if unicodedata.category(letter)[0] in "LNCP" else " "


@lru_cache(maxsize=256)
def _warn_once(line: str) -> None:
    logger.warning("'%s': no installed typeface has all letters; set a font file that has them", line)


@lru_cache(maxsize=len(SYSTEM_TYPEFACES))
def _is_installed(typeface: str) -> bool:
    try:
        load_font(_PROBE_SIZE, typeface)
    except UserError:
        return False
    return True


@lru_cache(maxsize=8192)
def _has_letter(typeface: str | None, letter: str) -> bool:
    """Whether a typeface has a glyph for a character. Invisible characters need none."""
    category = unicodedata.category(letter)
    if category in ("Cf", "Mn", "Zs"):
        return True
    if category in ("Cs", "Cn"):  # surrogates and unassigned characters
        return False
    font = load_font(_PROBE_SIZE, typeface)
    mask, missing = font.getmask(letter), font.getmask(_UNASSIGNED)
    return (mask.size, bytes(mask)) != (missing.size, bytes(missing))
