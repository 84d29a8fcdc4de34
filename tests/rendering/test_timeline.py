"""The timeline below a video."""

import numpy as np
import pytest

from vmae_det.rendering import ActionLabel
from vmae_det.rendering.style import KIND_COLORS, WHITE
from vmae_det.rendering.timeline import MAX_HEIGHT, PAGE_SECONDS, ActionSpan, Timeline

BLUE, YELLOW = KIND_COLORS["PERSON_MOVEMENT"], KIND_COLORS["OBJECT_MANIPULATION"]
SIZE = (480, 640)


def span(person, start, end, kind="PERSON_MOVEMENT", score=0.95, name="walk"):
    return ActionSpan(person, start, end, ActionLabel(name, score, kind))


def timeline(spans, start, end, size=SIZE):
    """Return a timeline with two rows and these spans."""
    line = Timeline(size, 2, start, min(max(end - start, 1), PAGE_SECONDS))
    line.add(spans)
    return line


def columns(strip, color):
    """Return the first and last column with a bar of this color, and the number of rows with such bars."""
    found = (strip == color).all(axis=2)
    lines = np.flatnonzero(found.sum(axis=1) > 5)
    across = np.flatnonzero(found.any(axis=0))
    return across[0], across[-1], 1 + int((np.diff(lines) > 1).sum())


def cursor(strip):
    """Return the center of the white columns."""
    return np.flatnonzero((strip == WHITE).all(axis=(0, 2))).mean()


def test_bars_are_at_their_times():
    line = timeline([span(1, 102, 105), span(1, 106, 108, "OBJECT_MANIPULATION")], 100, 110)
    strip = line.draw(100)
    assert strip.shape == (line.height, 640, 3)
    for color, start, end in ((BLUE, 2, 5), (YELLOW, 6, 8)):
        first, last, rows = columns(strip, color)
        assert abs(first - 64 * start) <= 2
        assert abs(last - 64 * end) <= 4
        assert rows == 1


def test_the_cursor_stays_inside():
    line = timeline([span(1, 0, 5)], 0, 10)
    assert [cursor(line.draw(t)) for t in (2.5, 5, 7.5)] == pytest.approx([160, 320, 480], abs=2)
    assert cursor(line.draw(-3)) < 3
    assert cursor(line.draw(9.99)) > 636
    assert (line.draw(2.5) == line.draw(2.5)).all()


def test_people_who_are_not_present_at_the_same_time_share_a_row():
    apart = timeline([span(1, 0, 4), span(2, 5, 9)], 0, 10)
    together = timeline([span(1, 0, 4), span(2, 3, 9)], 0, 10)
    assert [columns(line.draw(0), BLUE)[2] for line in (apart, together)] == [1, 2]


def test_a_long_video_has_several_pages():
    end = 3 * PAGE_SECONDS
    spans = [span(1, 0, 10), span(2, end - 10, end, "OBJECT_MANIPULATION")]
    line = timeline(spans, 0, end)
    first, middle, last = (line.draw(time) for time in (1, 1.5 * PAGE_SECONDS, end - 1))
    assert columns(first, BLUE)[1] == pytest.approx(640 * 10 / PAGE_SECONDS, abs=4)
    assert not (first == YELLOW).all(axis=2).any()
    assert columns(last, YELLOW)[0] == pytest.approx(640 * (1 - 10 / PAGE_SECONDS), abs=2)
    assert cursor(middle) == pytest.approx(320, abs=2)


@pytest.mark.parametrize(
    "size", [(144, 192), (192, 144), (240, 561), (481, 270), (1080, 1920), (2160, 3840), (32, 32)]
)
def test_any_frame_size_number_of_people_and_name(size):
    names = ("<b>\n'", "long " * 50, "يجري", "", "跑 🚶")
    spans = [span(i, 0.1 * i, 9 + 0.1 * i, name=names[i % 5], score=i / 40) for i in range(40)]
    line = timeline(spans, 0, 13, size)
    strip = line.draw(6)
    assert strip.shape == (line.height, size[1], 3)
    assert (line.height + size[0]) % 2 == 0
    assert line.height <= max(MAX_HEIGHT * size[0], 40) + 1
    assert timeline([], 0, 0, size).draw(0).shape[1] == size[1]


def test_actions_with_low_scores_fade():
    sure, unsure = (timeline([span(1, 0, 9, score=score)], 0, 10).draw(9.9) for score in (0.9, 0.3))
    assert (sure == BLUE).all(axis=2).sum() > 500
    assert (unsure == BLUE).all(axis=2).sum() == 0


def test_spans_can_be_added_during_drawing():
    """As for a live stream: keyframe by keyframe, people in any order, and no known end."""
    line = Timeline(SIZE, rows=2)
    strips = []
    for second in range(200):
        people = [3, 1] if second % 2 else [1, 3]
        line.add([span(person, second, second + 1, name=f"does {person}") for person in people])
        strips.append(line.draw(second + 0.5))
    assert {strip.shape for strip in strips} == {(line.height, 640, 3)}
    reach = [columns(strips[second], BLUE)[1] for second in (9, 29, 59)]
    assert reach == pytest.approx([107, 320, 640], abs=4)
    again = Timeline(SIZE, rows=2)
    again.add([span(person, 180, 200, name=f"does {person}") for person in (1, 3)])
    assert (again.draw(199.5) == strips[199]).all()  # merged into one bar each, in the same rows


def test_spans_around_times_that_are_not_exact_are_merged():
    times = [0.2 * number for number in range(40)]
    parts = timeline([span(1, time - 0.1, time + 0.1) for time in times], 0, 10).draw(9)
    assert (parts == timeline([span(1, -0.1, 7.9)], 0, 10).draw(9)).all()


def test_new_people_take_no_row_of_those_who_stay():
    line = Timeline(SIZE, rows=2)
    line.add([span(1, 0, 30)])
    line.add([span(9, 30, 60, "OBJECT_MANIPULATION"), span(1, 30, 60)])
    strip = line.draw(0)
    bars = [set(np.flatnonzero((strip == color).all(axis=2).sum(axis=1) > 5)) for color in (BLUE, YELLOW)]
    assert bars[0]
    assert bars[1]
    assert max(bars[0]) < min(bars[1])


def test_past_spans_are_dropped():
    line = Timeline(SIZE, rows=2)
    for second in range(10 * round(PAGE_SECONDS)):
        line.add([span(1, second, second + 1, name=f"step {second}")])
        line.draw(second + 0.5)
    assert sum(map(len, line._rows)) <= PAGE_SECONDS
