"""Plates are legible: letters of some height, of enough contrast on any ground."""

import numpy as np
import pytest

from vmae_det.rendering.fonts import load_font
from vmae_det.rendering.plates import (
    KIND_COLOURS,
    ActionLabel,
    Style,
    bar_colours,
    lay_over,
    plate_size,
    render_plate,
    text_colour,
)

KINDS = [*KIND_COLOURS, None]
SCORES = (0.0, 0.1, 0.3, 0.5, 1.0)
SIZES = [(144, 192), (144, 336), (240, 320), (256, 144), (480, 270), (720, 1280), (1080, 1920), (2160, 3840)]


def luminance(colour):
    """Relative luminance (WCAG 2.1) of sRGB (..., 3), 0 to 255."""
    level = np.asarray(colour, float) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def contrast(one, other):
    """Between two luminances (WCAG 2.1)."""
    return (np.maximum(one, other) + 0.05) / (np.minimum(one, other) + 0.05)


def laid_over(ground, plate):
    picture = np.full(plate.colour.shape, ground, np.uint8)
    lay_over(picture, plate, 0, 0)
    return picture


@pytest.mark.parametrize("ground", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("size", [(144, 192), (480, 640), (1080, 1920)])
def test_names_and_scores_have_contrast_whatever_lies_below(ground, size):
    style = Style.of_frame(*size)
    for kind in KINDS:
        for score in SCORES:
            plate = render_plate((ActionLabel("HIM", score, kind),), None, style)
            text = laid_over(ground, plate)[: -style.bar, style.edge :]
            bright = luminance(text)
            assert contrast(bright.max(), np.median(bright)) >= 4.5
            assert bright.max() <= luminance(text_colour(score)) + 0.01  # the fainter the less likely


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_have_contrast_on_their_kind_s_colour(kind):
    style = Style.of_frame(1080, 1920)
    plate = render_plate((ActionLabel("walk", 0.9, kind),), 17, style)
    tag = luminance(laid_over(128, plate)[:, : plate_size((), 17, style)[1]])
    assert contrast(tag.max(), tag.min()) >= 4.5
    assert np.median(tag) == tag.max()  # the ground


@pytest.mark.parametrize("size", SIZES)
def test_letters_have_a_height_that_is_read(size):
    font = load_font(Style.of_frame(*size).font_size)
    _, top, _, bottom = font.getbbox("H")
    assert bottom - top >= max(7, 0.014 * min(size))


def test_letters_grow_with_the_frame():
    heights = [Style.of_frame(lines, lines * 16 // 9).font_size for lines in (144, 240, 480, 1080, 2160)]
    assert heights == sorted(heights)
    assert heights[-1] > 3 * heights[0]


@pytest.mark.parametrize("size", SIZES)
def test_a_plate_has_the_size_that_was_foretold(size):
    style = Style.of_frame(*size)
    long = ActionLabel("talk to (e.g., self, a person, a group)" * 3, 0.5, "PERSON_INTERACTION")
    for actions, number in (((long,) * 3, 123456), ((long,), None), ((), 7)):
        plate = render_plate(actions, number, style)
        assert plate.colour.shape == plate.keep.shape == (*plate_size(actions, number, style), 3)


def test_a_bar_is_as_long_as_its_score_and_fades_with_it():
    style = Style.of_frame(1080, 1920)
    lengths = []
    for score in (0.25, 0.5, 1.0):
        plate = render_plate((ActionLabel("walk", score, "PERSON_MOVEMENT"),), None, style)
        bar = plate.colour[-1, style.edge :]
        lengths.append((bar == bar_colours("PERSON_MOVEMENT", score)[0]).all(axis=1).mean())
    np.testing.assert_allclose(lengths, [0.25, 0.5, 1.0], atol=0.02)
    brightness = [luminance(bar_colours("PERSON_MOVEMENT", score)[0]) for score in (0.2, 0.4, 0.9)]
    assert brightness == sorted(brightness)
    assert brightness[0] < 0.5 * brightness[-1]
