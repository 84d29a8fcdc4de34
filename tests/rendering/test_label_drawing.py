"""Labels are legible: letter height and contrast on any background."""

import numpy as np
import pytest

from vmae_det.rendering.fonts import load_font
from vmae_det.rendering.label_drawing import ActionLabel, blend_label, label_size, render_label
from vmae_det.rendering.style import KIND_COLORS, DrawStyle, bar_colors, text_color

KINDS = [*KIND_COLORS, None]
SCORES = (0.0, 0.1, 0.3, 0.5, 1.0)
SIZES = [(144, 192), (144, 336), (240, 320), (256, 144), (480, 270), (720, 1280), (1080, 1920), (2160, 3840)]


def luminance(color):
    """Return the relative luminance (WCAG 2.1) of sRGB values (..., 3), 0 to 255."""
    level = np.asarray(color, float) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def contrast(one, other):
    """Return the contrast of two luminances (WCAG 2.1)."""
    return (np.maximum(one, other) + 0.05) / (np.minimum(one, other) + 0.05)


def blended(background, label):
    picture = np.full(label.color.shape, background, np.uint8)
    blend_label(picture, label, 0, 0)
    return picture


@pytest.mark.parametrize("background", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("size", [(144, 192), (480, 640), (1080, 1920)])
def test_names_and_scores_have_contrast_on_any_background(background, size):
    style = DrawStyle.for_frame(*size)
    for kind in KINDS:
        for score in SCORES:
            label = render_label((ActionLabel("HIM", score, kind),), None, style)
            text = blended(background, label)[: -style.bar_height, style.edge_width :]
            bright = luminance(text)
            assert contrast(bright.max(), np.median(bright)) >= 4.5
            assert bright.max() <= luminance(text_color(score)) + 0.01  # fades with the score


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_have_contrast_on_the_color_of_the_kind(kind):
    style = DrawStyle.for_frame(1080, 1920)
    label = render_label((ActionLabel("walk", 0.9, kind),), 17, style)
    number = luminance(blended(128, label)[:, : label_size((), 17, style)[1]])
    assert contrast(number.max(), number.min()) >= 4.5
    assert np.median(number) == number.max()  # the background


@pytest.mark.parametrize("size", SIZES)
def test_letters_have_a_minimum_height(size):
    font = load_font(DrawStyle.for_frame(*size).font_size)
    _, top, _, bottom = font.getbbox("H")
    assert bottom - top >= max(7, 0.014 * min(size))


def test_letters_grow_with_the_frame():
    heights = [DrawStyle.for_frame(lines, lines * 16 // 9).font_size for lines in (144, 240, 480, 1080, 2160)]
    assert heights == sorted(heights)
    assert heights[-1] > 3 * heights[0]


@pytest.mark.parametrize("size", SIZES)
def test_label_size_is_that_of_the_rendered_label(size):
    style = DrawStyle.for_frame(*size)
    long = ActionLabel("talk to (e.g., self, a person, a group)" * 3, 0.5, "PERSON_INTERACTION")
    for actions, number in (((long,) * 3, 123456), ((long,), None), ((), 7)):
        label = render_label(actions, number, style)
        assert label.color.shape == label.transparency.shape == (*label_size(actions, number, style), 3)


def test_the_length_and_brightness_of_a_bar_show_its_score():
    style = DrawStyle.for_frame(1080, 1920)
    lengths = []
    for score in (0.25, 0.5, 1.0):
        label = render_label((ActionLabel("walk", score, "PERSON_MOVEMENT"),), None, style)
        bar = label.color[-1, style.edge_width :]
        lengths.append((bar == bar_colors("PERSON_MOVEMENT", score)[0]).all(axis=1).mean())
    np.testing.assert_allclose(lengths, [0.25, 0.5, 1.0], atol=0.02)
    brightness = [luminance(bar_colors("PERSON_MOVEMENT", score)[0]) for score in (0.2, 0.4, 0.9)]
    assert brightness == sorted(brightness)
    assert brightness[0] < 0.5 * brightness[-1]
