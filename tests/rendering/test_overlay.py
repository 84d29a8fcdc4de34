"""People drawn on single frames: boxes, labels, and their memory over a video."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_det.rendering import KIND_COLORS, ActionLabel, PersonOverlay, draw_classes, draw_people, overlay
from vmae_det.rendering.label_placement import head_regions, place_labels
from vmae_det.rendering.overlay import HOLD_FRAMES
from vmae_det.rendering.style import OTHER_COLOR

ACTIONS = (
    ActionLabel("stand", 0.95, "PERSON_MOVEMENT"),
    ActionLabel("carry/hold (an object)", 0.7, "OBJECT_MANIPULATION"),
    ActionLabel("talk to (e.g., self, a person, a group)", 0.4, "PERSON_INTERACTION"),
)
LINES = (144, 240, 360, 480, 720, 1080, 1440, 2160)
SIZES = [
    *((lines, round(lines * 16 / 9)) for lines in LINES),
    *((lines, round(lines * 21 / 9)) for lines in (144, 480, 1080)),
    *((round(lines * 16 / 9), lines) for lines in (144, 480, 1080)),
]
STRANGE_NAMES = (
    "<script>alert('walk')</script> & <b>",
    "two\nlines\r\nand\ta tab",
    "walk 🚶‍♀️ 👩‍👩‍👧",
    "يجري مع كرة",
    "跑步",
    "a\u202eb %s %(name)d {0} \\n",
    "e\u0301\u0302\u0303\u0304\u0305" * 20,
    "long " * 200,
    "",
)


def gray(height, width):
    return np.full((height, width, 3), 120, np.uint8)


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def shows(picture, color):
    return bool((picture == np.array(color)).all(axis=2).any())


@pytest.fixture(scope="module")
def calls():
    """Arguments and results of the calls of `place_labels` by `draw_people`."""
    calls = []

    def spy(*args):
        calls.append((args, place_labels(*args)))
        return calls[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay, "place_labels", spy)
        yield calls


def labels_of(calls):
    """Return the rectangles of the labels that were drawn last."""
    return [position.rectangle for position in calls[-1][1] if position is not None]


def rows_of(calls):
    """Return the number of rows of the first label that was drawn last."""
    (_, _, sizes, *_), positions = calls[-1]
    return sizes[0][positions[0].choice][0] // sizes[0][-1][0]


def test_only_pixels_of_the_box_and_its_label_change(calls):
    frame = gray(480, 640)
    picture = draw_people(frame, [PersonOverlay((300, 150, 380, 400), ACTIONS)])
    (label,) = labels_of(calls)
    allowed = np.zeros((480, 640), bool)
    allowed[label[1] : label[3], label[0] : label[2]] = True
    allowed[145:406, 295:386] = True
    allowed[160:390, 310:370] = False  # inside of the box
    changed = (picture != frame).any(axis=2)
    assert changed[allowed].any()
    assert not changed[~allowed].any()
    assert (frame == 120).all()
    assert picture.shape == frame.shape
    assert picture.dtype == np.uint8


def test_a_frame_without_people_is_returned_as_it_is():
    frame = gray(240, 320)
    assert draw_people(frame, []) is frame


def test_kinds_have_different_colors():
    picture = draw_people(gray(480, 640), [PersonOverlay((300, 150, 380, 400), ACTIONS)])
    assert all(shows(picture, color) for color in KIND_COLORS.values())


def test_threshold_and_top_k_limit_the_actions():
    person = PersonOverlay((300, 150, 380, 400), ACTIONS)
    manipulation, interaction = KIND_COLORS["OBJECT_MANIPULATION"], KIND_COLORS["PERSON_INTERACTION"]
    picture = draw_people(gray(480, 640), [person], threshold=0.5)
    assert shows(picture, manipulation)
    assert not shows(picture, interaction)
    assert not shows(draw_people(gray(480, 640), [person], top_k=1), manipulation)


def test_a_person_without_actions_has_a_gray_box():
    picture = draw_people(gray(480, 640), [PersonOverlay((300, 150, 380, 400))])
    assert tuple(picture[150, 340]) == OTHER_COLOR


def test_boxes_fade_with_the_score_of_the_best_action():
    def distance(score):
        action = ActionLabel("stand", score, "PERSON_MOVEMENT")
        picture = draw_people(gray(480, 640), [PersonOverlay((300, 150, 380, 400), [action])])
        return np.abs(picture[300, 300].astype(int) - 120).sum()  # of the left line to the background

    assert distance(0.9) > 1.1 * distance(0.5) > 1.1 * distance(0.3) > 40


def test_labels_cover_no_heads_and_no_other_labels(calls):
    boxes = [(60, 200, 160, 450), (170, 180, 260, 440), (300, 220, 380, 460), (470, 150, 560, 400)]
    draw_people(gray(480, 640), [PersonOverlay(box, ACTIONS, i) for i, box in enumerate(boxes)])
    heads, labels = head_regions(np.array(boxes)), labels_of(calls)
    assert len(labels) == 4
    for i, label in enumerate(labels):
        assert not any(overlap(label, head) for head in heads)
        assert not any(overlap(label, other) for other in labels[i + 1 :])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_labels_of_boxes_at_the_border_are_inside_the_frame(calls, height, width):
    corners = [
        (0, 0, 0.2, 0.5),
        (0.8, 0, 1, 0.6),
        (-0.1, 0.6, 0.15, 1.1),
        (0.85, 0.5, 1.2, 1),
        (0.4, 0.01, 0.6, 1),
    ]
    scale = (width, height, width, height)
    draw_people(gray(height, width), [PersonOverlay(np.multiply(box, scale), ACTIONS, 12) for box in corners])
    labels = labels_of(calls)
    assert len(labels) == 5
    for x1, y1, x2, y2 in labels:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([size for size in SIZES if min(size) <= 480]),
    count=st.integers(0, 30),
    extent=st.sampled_from([0.01, 0.2, 0.6, 2.0]),  # tiny to larger than the frame
    seed=st.integers(0, 2**32 - 1),
)
def test_any_scene(calls, size, count, extent, seed):
    rng = np.random.default_rng(seed)
    height, width = size
    people = []
    for _ in range(count):
        middle, half = rng.uniform(-0.1, 1.1, 2), rng.uniform(0, extent, 2) / 2
        box = np.concatenate([middle - half, middle + half]) * (width, height, width, height)
        labels = [
            ActionLabel(str(rng.choice(STRANGE_NAMES)), float(rng.uniform()), kind)
            for kind in rng.choice([*KIND_COLORS, "other"], rng.integers(0, 5))
        ]
        people.append(PersonOverlay(box, labels, int(rng.integers(0, 10**6)) if rng.random() < 0.8 else None))
    frame = gray(height, width)
    calls.clear()
    picture = draw_people(frame, people)
    assert picture.shape == frame.shape
    assert (frame == 120).all()
    assert (picture == draw_people(frame, people)).all()
    if calls:
        (_, boxes, *_), _ = calls[-1]
        labels = labels_of(calls)
        for i, label in enumerate(labels):
            assert label[0] >= 0
            assert label[1] >= 0
            assert label[2] <= width
            assert label[3] <= height
            assert not any(overlap(label, other) for other in [*head_regions(boxes), *labels[i + 1 :]])


def test_labels_of_a_crowd_show_fewer_actions(calls):
    people = [PersonOverlay((40 * i, 60, 40 * i + 35, 230), ACTIONS, i) for i in range(8)]
    draw_people(gray(240, 320), people)
    assert rows_of(calls) == 1
    draw_people(gray(240, 320), people[:1])
    assert rows_of(calls) == 3


def test_labels_without_space_for_names_show_the_number(calls):
    # Heads fill the upper part of the frame. Below there is one row, which is too narrow for all names.
    people = [PersonOverlay((16 * i, 0, 16 * i + 14, 44), ACTIONS, i) for i in range(8)]
    draw_people(gray(60, 128), people)
    sizes = {label[2] - label[0] for label in labels_of(calls)}
    assert len(labels_of(calls)) == 8
    assert min(sizes) < 20


def test_boxes_outside_the_frame_or_without_area_are_skipped():
    frame = gray(240, 320)
    nan = float("nan")
    boxes = [(400, 10, 500, 90), (50, 50, 50, 90), (90, 90, 60, 60), (nan, 0, 10, 10)]
    assert (draw_people(frame, [PersonOverlay(box, ACTIONS) for box in boxes]) == frame).all()


def test_with_memory_a_label_does_not_jump_with_a_trembling_box(calls):
    def draw(memory):
        rectangles = []
        for top in (52, 38, 52, 38, 52, 38):  # there is space above the box on every other frame
            draw_people(gray(240, 320), [PersonOverlay((100, top, 180, 220), ACTIONS, 7)], memory=memory)
            rectangles.append(labels_of(calls)[0])
        return rectangles

    without, with_memory = draw(None), draw({})
    assert without[1] != without[2]
    assert all(np.abs(np.subtract(rectangle, with_memory[1])).max() <= 14 for rectangle in with_memory[1:])


def test_with_memory_shortened_labels_stay_short_for_some_frames(calls):
    def draw(count):
        people = [PersonOverlay((40 * i, 60, 40 * i + 35, 230), ACTIONS, i) for i in range(count)]
        draw_people(gray(240, 320), people, memory=memory)
        return rows_of(calls)

    memory = {}
    assert draw(1) == 3
    assert draw(8) == 1
    assert [draw(1) for _ in range(HOLD_FRAMES)] == [1] * HOLD_FRAMES
    assert draw(1) == 3


def test_memory_is_bounded():
    memory = {}
    for number in range(400):
        draw_people(gray(240, 320), [PersonOverlay((100, 90, 180, 220), ACTIONS, number)], memory=memory)
    assert len(memory) < 300
    assert 399 in memory


def test_classes_of_the_whole_frame():
    frame = gray(480, 640)
    picture = draw_classes(frame, ACTIONS, top_k=1)
    changed = (picture != frame).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert max(rows[0], columns[0]) < 10  # in the upper left corner
    assert rows[-1] < 60
    assert columns[-1] < 250
    both = (draw_classes(frame, ACTIONS, top_k=2) != frame).any(axis=2).any(axis=1).sum()
    assert both > 1.8 * len(rows)
    assert draw_classes(frame, ACTIONS, threshold=0.99) is frame
    assert draw_classes(gray(60, 40), ACTIONS).shape == (60, 40, 3)
    assert draw_classes(gray(6, 4), ACTIONS).shape == (6, 4, 3)
