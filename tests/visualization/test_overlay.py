import numpy as np
import pytest

from vmae_det.visualization import KIND_COLOURS, ActionLabel, PersonOverlay, draw_people, overlay
from vmae_det.visualization.overlay import head_regions, place_labels, shorten_name

ACTIONS = (
    ActionLabel("stand", 0.95, "PERSON_MOVEMENT"),
    ActionLabel("carry/hold (an object)", 0.7, "OBJECT_MANIPULATION"),
    ActionLabel("talk to (e.g., self, a person, a group)", 0.4, "PERSON_INTERACTION"),
)
SIZES = [(144, 192), (144, 256), (240, 320), (480, 640), (1080, 1920), (1920, 1080), (2160, 3840)]


def grey(height, width):
    return np.full((height, width, 3), 120, np.uint8)


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def shows(picture, colour):
    return bool((picture == np.array(colour)).all(axis=2).any())


@pytest.fixture
def layouts(monkeypatch):
    """The arguments and results of every call of `place_labels` by `draw_people`."""
    calls = []

    def spy(*args):
        calls.append((args, place_labels(*args)))
        return calls[-1][1]

    monkeypatch.setattr(overlay, "place_labels", spy)
    return calls


def test_only_pixels_near_the_box_and_its_plate_change(layouts):
    frame = grey(480, 640)
    box = (300, 150, 380, 400)
    picture = draw_people(frame, [PersonOverlay(box, ACTIONS)])
    plate = layouts[-1][1][0][0]
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
    assert tuple(picture[150, 340]) == overlay.OTHER_COLOUR


def test_plates_leave_heads_and_each_other_free(layouts):
    boxes = [(60, 200, 160, 450), (170, 180, 260, 440), (300, 220, 380, 460), (470, 150, 560, 400)]
    draw_people(grey(480, 640), [PersonOverlay(box, ACTIONS, i) for i, box in enumerate(boxes)])
    (_, drawn_boxes, *_), (plates, clear) = layouts[-1]
    assert clear
    heads = head_regions(drawn_boxes)
    for i, plate in enumerate(plates):
        assert not any(overlap(plate, head) for head in heads)
        assert not any(overlap(plate, other) for other in plates[i + 1 :])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_plates_stay_inside_the_frame(layouts, height, width):
    corners = [
        (0, 0, 0.2, 0.5),
        (0.8, 0, 1, 0.6),
        (-0.1, 0.6, 0.15, 1.1),
        (0.85, 0.5, 1.2, 1),
        (0.4, 0.01, 0.6, 1),
    ]
    scale = (width, height, width, height)
    draw_people(grey(height, width), [PersonOverlay(np.multiply(box, scale), ACTIONS, 12) for box in corners])
    plates, _ = layouts[-1][1]
    assert len(plates) == 5
    for x1, y1, x2, y2 in plates:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


def test_letters_grow_with_the_frame_but_remain_legible_in_a_small_one(layouts):
    heights = []
    for lines in (144, 240, 1080, 2160):
        box = np.multiply((0.4, 0.4, 0.6, 0.9), (lines * 16 // 9, lines, lines * 16 // 9, lines))
        draw_people(grey(lines, lines * 16 // 9), [PersonOverlay(box, ACTIONS[:1])])
        heights.append(layouts[-1][0][2][0][0])
    assert heights == sorted(heights)
    assert heights[0] >= 12
    assert heights[-1] > 3 * heights[0]


def test_a_crowd_shows_fewer_actions_so_that_the_picture_stays_visible(layouts):
    people = [PersonOverlay((40 * i, 60, 40 * i + 35, 230), ACTIONS, i) for i in range(8)]
    draw_people(grey(240, 320), people)
    crowded = layouts[-1][0][2][0][0]
    draw_people(grey(240, 320), people[:1])
    assert crowded < layouts[-1][0][2][0][0]


def test_boxes_outside_the_frame_or_without_area_are_skipped():
    frame = grey(240, 320)
    nan = float("nan")
    boxes = [(400, 10, 500, 90), (50, 50, 50, 90), (90, 90, 60, 60), (nan, 0, 10, 10)]
    assert (draw_people(frame, [PersonOverlay(box, ACTIONS) for box in boxes]) == frame).all()
    assert (draw_people(frame, []) == frame).all()


def test_with_memory_a_plate_stays_where_it_is_beside_a_trembling_box(layouts):
    def places(memory):
        places = []
        for top in (52, 38, 52, 38, 52, 38):  # by turns there is room above the box and there is not
            draw_people(grey(240, 320), [PersonOverlay((100, top, 180, 220), ACTIONS, 7)], memory=memory)
            places.append(layouts[-1][1][0][0])
        return places

    without, with_memory = places(None), places({})
    assert without[1] != without[2]
    assert all(np.abs(np.subtract(place, with_memory[1])).max() <= 14 for place in with_memory[1:])


def test_long_names_lose_their_parentheses_then_their_end():
    name = "talk to (e.g., self, a person, a group)"
    assert shorten_name(name, 1000, 12) == name
    assert shorten_name(name, 80, 12) == "talk to"
    assert shorten_name("give/serve (an object) to (a person)", 120, 12) == "give/serve to"
    assert shorten_name("work on a computer", 80, 12).endswith("…")
