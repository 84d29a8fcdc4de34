"""Text for pictures: any string made fit to be drawn, in a typeface that has its letters.

A text is drawn in the first typeface that has all of its letters: the one the caller names, the one that
Pillow brings, or one of those that usual systems have. Letters that none of them has lose their accents,
become question marks, or, being mere ornament, go.
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

# Sans-serif typefaces of Linux, Windows and macOS that between them have most scripts, in order of search.
SYSTEM_TYPEFACES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc"),
    *("msyh.ttc", "YuGothR.ttc", "malgun.ttf", "PingFang.ttc", "AppleSDGothicNeo.ttc"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf"),
    *("NotoSansBengali-Regular.ttf", "NotoSansTamil-Regular.ttf", "NotoSansThai-Regular.ttf", "Nirmala.ttf"),
    "unifont.otf",
)
MAX_LETTERS = 200  # of a text; more fit on no plate

_PROBE_SIZE = 20
_NO_LETTER = "\U0010ffff"  # which no typeface has: shows what one draws for letters that it lacks
_JOINERS = "\u200c\u200d"  # invisible, but they shape the letters beside them


class Text(NamedTuple):
    """Letters, and a font that has them."""

    letters: str
    font: ImageFont.FreeTypeFont

    @property
    def width(self) -> float:
        """Pixels from its beginning to where the next text would begin."""
        return self.font.getlength(self.letters)


@lru_cache(maxsize=64)
def load_font(size: int, typeface: str | None = None) -> ImageFont.FreeTypeFont:
    """A typeface, `size` pixels to the em.

    Args:
        typeface: a font file, or the name of one of the system's; None for the one Pillow brings (Aileron).

    Raises:
        UserError: there is no such file, or it is not a font.
    """
    if typeface is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(typeface, size)
    except OSError:
        found = "is not a font that FreeType reads" if Path(typeface).is_file() else "does not exist"
        raise UserError(f"{typeface}: {found}; expected a .ttf, .otf or .ttc file") from None


@lru_cache(maxsize=1024)
def fit_text(name: str, width: float, size: int, typeface: str | None = None) -> Text:
    """A name in one line: whole, or without its parentheses, or with an ellipsis, the first to fit.

    AVA's names carry examples, "talk to (e.g., self, a person, a group)": small frames have no room for them.

    Args:
        width: pixels at most.
        size: of the font, pixels to the em.
        typeface: as of `load_font`; drawn in another where it lacks letters of the name.
    """
    text = _drawable(_one_line(name), typeface, size)
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


def _one_line(name: str) -> str:
    """Without line breaks, control characters, and marks that turn the direction of what follows."""
    name = unicodedata.normalize("NFC", name[:MAX_LETTERS])
    letters = [" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in name]
    kept = (c for c in letters if c in _JOINERS or unicodedata.category(c) != "Cf")
    return " ".join("".join(kept).split()) or "?"


def _drawable(line: str, typeface: str | None, size: int) -> Text:
    """The line in the typeface that has most of its letters, and there what it can show of it."""
    best, lacking = None, len(line) + 1
    for candidate in (*([typeface] if typeface else []), None, *SYSTEM_TYPEFACES):
        if candidate in SYSTEM_TYPEFACES and not _is_installed(candidate):
            continue
        missing = sum(not _has(candidate, letter) for letter in line)
        if missing < lacking:
            best, lacking = candidate, missing
        if not missing:
            break
    shown = line if not lacking else "".join(c if _has(best, c) else _instead(best, c) for c in line)
    if lacking:
        _warn_once(line)
    return Text(" ".join(shown.split()) or "?", load_font(size, best))


def _instead(typeface: str | None, letter: str) -> str:
    """What is drawn for a letter that the typeface lacks."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    if plain != letter and all(_has(typeface, c) for c in plain):
        return plain
    return "?" if unicodedata.category(letter)[0] in "LNCP" else " "


@lru_cache(maxsize=256)
def _warn_once(line: str) -> None:
    logger.warning(
        "'%s': no typeface found here has all of its letters; a font file that has can be given", line
    )


@lru_cache(maxsize=len(SYSTEM_TYPEFACES))
def _is_installed(typeface: str) -> bool:
    try:
        load_font(_PROBE_SIZE, typeface)
    except UserError:
        return False
    return True


@lru_cache(maxsize=8192)
def _has(typeface: str | None, letter: str) -> bool:
    """Whether a typeface has a letter of its own for a character; of invisible ones it needs none."""
    category = unicodedata.category(letter)
    if category in ("Cf", "Mn", "Zs"):
        return True
    if category in ("Cs", "Cn"):  # half characters and unassigned ones
        return False
    font = load_font(_PROBE_SIZE, typeface)
    mask, tofu = font.getmask(letter), font.getmask(_NO_LETTER)
    return (mask.size, bytes(mask)) != (tofu.size, bytes(tofu))
