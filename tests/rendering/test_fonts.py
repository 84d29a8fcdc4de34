"""Any string becomes one line of letters that the chosen typeface has."""

import logging
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from vmae_det.rendering import fonts
from vmae_det.rendering.fonts import fit_text, load_font
from vmae_det.utils.errors import UserError

needs_dejavu = pytest.mark.skipif(not fonts._is_installed("DejaVuSans.ttf"), reason="requires DejaVu Sans")


def shows_missing_glyph(text):
    """Whether a letter is drawn as the glyph for missing letters."""
    missing = text.font.getmask("\U0010ffff")
    masks = [text.font.getmask(c) for c in text.letters if unicodedata.category(c) not in ("Zs", "Cf", "Mn")]
    return any((mask.size, bytes(mask)) == (missing.size, bytes(missing)) for mask in masks)


@pytest.fixture
def no_system_typefaces(monkeypatch):
    monkeypatch.setattr(fonts, "SYSTEM_TYPEFACES", ())
    for cache in (fonts.fit_text, fonts._warn_once):
        cache.cache_clear()
    yield
    for cache in (fonts.fit_text, fonts._warn_once):
        cache.cache_clear()


def test_long_names_are_shortened_by_their_parentheses_then_their_end():
    name = "talk to (e.g., self, a person, a group)"
    assert fit_text(name, 1000, 12).letters == name
    assert fit_text(name, 80, 12).letters == "talk to"
    assert fit_text("give/serve (an object) to (a person)", 120, 12).letters == "give/serve to"
    short = fit_text("work on a computer", 80, 12)
    assert short.letters.endswith("…")
    assert 60 < short.width <= 80
    assert fit_text("(all of it)", 500, 12).letters == "(all of it)"


def test_a_very_long_name_is_cut_to_the_width():
    assert fit_text("walk " * 100_000, 90, 12).width <= 90


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("two\nlines\tand\r more", "two lines and more"),
        ("\x1b[31mred\x00", "[31mred"),
        ("<b>bold</b> & %s", "<b>bold</b> & %s"),
        ("a\u202eb\u2066c\ufeff", "abc"),  # marks that change the text direction
        ("", "?"),
        (" \n ", "?"),
    ],
)
def test_control_characters_are_removed(name, shown):
    assert fit_text(name, 1000, 12).letters == shown


@needs_dejavu
@pytest.mark.parametrize("name", ["café", "бежать", "τρέχω", "לרוץ", "يجري", "běžet", "chạy"])
def test_other_scripts_use_a_typeface_that_has_them(name):
    text = fit_text(name, 1000, 20)
    assert text.letters == unicodedata.normalize("NFC", name)
    assert not shows_missing_glyph(text)
    assert np.asarray(text.font.getmask(text.letters)).any()


def test_letters_that_no_typeface_has_are_replaced_with_a_warning(no_system_typefaces, caplog):
    with caplog.at_level(logging.WARNING):
        assert fit_text("café", 1000, 20).letters == "cafe"
        assert fit_text("跑步 run 🏃", 1000, 20).letters == "?? run"
        fit_text("跑步 run 🏃", 900, 20)
    assert caplog.text.count("'跑步 run 🏃': no installed typeface") == 1


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30), st.integers(9, 40))
def test_any_text_is_drawn_without_missing_glyphs(name, size):
    text = fit_text(name, 200, size)
    assert text.letters
    assert text.width <= 200 or text.letters == "…"
    assert not shows_missing_glyph(text)
    text.font.getmask(text.letters)


def test_surrogates_of_undecodable_file_names():
    assert fit_text("a\udcffb", 200, 12).letters == "a?b"


@needs_dejavu
def test_a_given_typeface_is_used_and_errors_name_it(tmp_path):
    path = ImageFont.truetype("DejaVuSans.ttf", 10).path
    assert fit_text("walk", 200, 12, path).font.getname()[0] == "DejaVu Sans"
    assert fit_text("walk", 200, 12).font.getname()[0] != "DejaVu Sans"
    (tmp_path / "no.ttf").write_text("no font")
    with pytest.raises(UserError, match=r"no\.ttf: is not a font"):
        load_font(12, str(tmp_path / "no.ttf"))
    with pytest.raises(UserError, match=r"gone\.ttf: does not exist"):
        load_font(12, str(tmp_path / "gone.ttf"))
