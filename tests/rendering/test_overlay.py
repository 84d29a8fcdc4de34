import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_det.rendering import KIND_COLOURS, ActionLabel, PersonOverlay, draw_people, overlay
from vmae_det.rendering.label_placement import head_regions, place_labels
from vmae_det.rendering.overlay import HOLD
from vmae_det.rendering.plates import OTHER_COLOUR

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


def grey(height, width):
    return np.full((height, width, 3), 120, np.uint8)


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def shows(picture, colour):
    return bool((picture == np.array(colour)).all(axis=2).any())


@pytest.fixture(scope="module")
def calls():
    """The arguments and results of every call of `place_labels` by `draw_people`."""
    calls = []

    def spy(*args):
        calls.append((args, place_labels(*args)))
        return calls[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay, "place_labels", spy)
        yield calls


def plates_of(calls):
    """Rectangles of the plates drawn last."""
    return [place.rectangle for place in calls[-1][1] if place is not None]


def rows_of(calls):
    """Height of the first plate drawn last, in rows."""
    (_, _, sizes, *_), places = calls[-1]
    return sizes[0][places[0].choice][0] // sizes[0][-1][0]


def test_only_pixels_near_the_box_and_its_plate_change(calls):
    frame = grey(480, 640)
    picture = draw_people(frame, [PersonOverlay((300, 150, 380, 400), ACTIONS)])
    (plate,) = plates_of(calls)
    allowed = np.zeros((480, 640), bool)
    allowed[plate[1] : plate[3], plate[0] : plate[2]] = True
    allowed[145:406, 295:386] = True
    allowed[160:390, 310:370] = False  # the inside of the box stays as it was
    changed = (picture != frame).any(axis=2)
    assert changed[allowed].any()
    assert not changed[~allowed].any()
    assert (frame == 120).all()
    assert picture.shape == frame.shape
    assert picture.dtype == np.uint8


def test_a_frame_without_people_is_not_even_copied():
    frame = grey(240, 320)
    assert draw_people(frame, []) is frame


def test_kinds_are_told_apart_by_colour():
    picture = draw_people(grey(480, 640), [PersonOverlay((300, 150, 380, 400), ACTIONS)])
    assert all(shows(picture, colour) for colour in KIND_COLOURS.values())


def test_threshold_and_top_k_leave_actions_out():
    person = PersonOverlay((300, 150, 380, 400), ACTIONS)
    manipulation, interaction = KIND_COLOURS["OBJECT_MANIPULATION"], KIND_COLOURS["PERSON_INTERACTION"]
    picture = draw_people(grey(480, 640), [person], threshold=0.5)
    assert shows(picture, manipulation)
    assert not shows(picture, interaction)
    assert not shows(draw_people(grey(480, 640), [person], top_k=1), manipulation)


def test_person_without_an_action_keeps_a_grey_box():
    picture = draw_people(grey(480, 640), [PersonOverlay((300, 150, 380, 400))])
    assert tuple(picture[150, 340]) == OTHER_COLOUR


def test_the_less_likely_the_best_action_the_fainter_the_box():
    def distance(score):
        action = ActionLabel("stand", score, "PERSON_MOVEMENT")
        picture = draw_people(grey(480, 640), [PersonOverlay((300, 150, 380, 400), [action])])
        return np.abs(picture[300, 300].astype(int) - 120).sum()  # on the left line, from the ground's colour

    assert distance(0.9) > 1.1 * distance(0.5) > 1.1 * distance(0.3) > 40


def test_plates_leave_heads_and_each_other_free(calls):
    boxes = [(60, 200, 160, 450), (170, 180, 260, 440), (300, 220, 380, 460), (470, 150, 560, 400)]
    draw_people(grey(480, 640), [PersonOverlay(box, ACTIONS, i) for i, box in enumerate(boxes)])
    heads, plates = head_regions(np.array(boxes)), plates_of(calls)
    assert len(plates) == 4
    for i, plate in enumerate(plates):
        assert not any(overlap(plate, head) for head in heads)
        assert not any(overlap(plate, other) for other in plates[i + 1 :])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_boxes_at_all_borders_have_plates_inside_the_frame(calls, height, width):
    corners = [
        (0, 0, 0.2, 0.5),
        (0.8, 0, 1, 0.6),
        (-0.1, 0.6, 0.15, 1.1),
        (0.85, 0.5, 1.2, 1),
        (0.4, 0.01, 0.6, 1),
    ]
    scale = (width, height, width, height)
    draw_people(grey(height, width), [PersonOverlay(np.multiply(box, scale), ACTIONS, 12) for box in corners])
    plates = plates_of(calls)
    assert len(plates) == 5
    for x1, y1, x2, y2 in plates:
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
            for kind in rng.choice([*KIND_COLOURS, "other"], rng.integers(0, 5))
        ]
        people.append(PersonOverlay(box, labels, int(rng.integers(0, 10**6)) if rng.random() < 0.8 else None))
    frame = grey(height, width)
    calls.clear()
    picture = draw_people(frame, people)
    assert picture.shape == frame.shape
    assert (frame == 120).all()
    assert (picture == draw_people(frame, people)).all()
    if calls:
        (_, boxes, *_), _ = calls[-1]
        plates = plates_of(calls)
        for i, plate in enumerate(plates):
            assert plate[0] >= 0
            assert plate[1] >= 0
            assert plate[2] <= width
            assert plate[3] <= height
            assert not any(overlap(plate, other) for other in [*head_regions(boxes), *plates[i + 1 :]])


def test_a_crowd_shows_fewer_actions_so_that_the_picture_stays_visible(calls):
    people = [PersonOverlay((40 * i, 60, 40 * i + 35, 230), ACTIONS, i) for i in range(8)]
    draw_people(grey(240, 320), people)
    assert rows_of(calls) == 1
    draw_people(grey(240, 320), people[:1])
    assert rows_of(calls) == 3


def test_without_room_for_names_the_number_remains(calls):
    # Heads fill the upper part of the frame, and what is below has a row, but not one wide enough for all.
    people = [PersonOverlay((16 * i, 0, 16 * i + 14, 44), ACTIONS, i) for i in range(8)]
    draw_people(grey(60, 128), people)
    sizes = {plate[2] - plate[0] for plate in plates_of(calls)}
    assert len(plates_of(calls)) == 8
    assert min(sizes) < 20


def test_boxes_outside_the_frame_or_without_area_are_skipped():
    frame = grey(240, 320)
    nan = float("nan")
    boxes = [(400, 10, 500, 90), (50, 50, 50, 90), (90, 90, 60, 60), (nan, 0, 10, 10)]
    assert (draw_people(frame, [PersonOverlay(box, ACTIONS) for box in boxes]) == frame).all()


def test_with_memory_a_plate_stays_where_it_is_beside_a_trembling_box(calls):
    def places(memory):
        places = []
        for top in (52, 38, 52, 38, 52, 38):  # by turns there is room above the box and there is not
            draw_people(grey(240, 320), [PersonOverlay((100, top, 180, 220), ACTIONS, 7)], memory=memory)
            places.append(plates_of(calls)[0])
        return places

    without, with_memory = places(None), places({})
    assert without[1] != without[2]
    assert all(np.abs(np.subtract(place, with_memory[1])).max() <= 14 for place in with_memory[1:])


def test_with_memory_plates_that_had_to_shrink_grow_again_only_after_a_while(calls):
    def draw(count):
        people = [PersonOverlay((40 * i, 60, 40 * i + 35, 230), ACTIONS, i) for i in range(count)]
        draw_people(grey(240, 320), people, memory=memory)
        return rows_of(calls)

    memory = {}
    assert draw(1) == 3
    assert draw(8) == 1
    assert [draw(1) for _ in range(HOLD)] == [1] * HOLD
    assert draw(1) == 3


def test_memory_does_not_grow_without_end():
    memory = {}
    for number in range(400):
        draw_people(grey(240, 320), [PersonOverlay((100, 90, 180, 220), ACTIONS, number)], memory=memory)
    assert len(memory) < 300
    assert 399 in memory
