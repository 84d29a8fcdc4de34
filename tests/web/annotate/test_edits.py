import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmae_det.web.annotate.document import (
    Cell,
    Change,
    EditConflictError,
    EditError,
    cell_to_json,
    document_from_json,
    document_to_json,
    new_document,
    seconds,
)
from vmae_det.web.annotate.edits import Rules, patch_of

A, B, C = (0.1, 0.1, 0.3, 0.5), (0.2, 0.2, 0.4, 0.6), (0.5, 0.1, 0.9, 0.9)
DOCUMENT = new_document(
    {(0, 4): Cell(A, (1,)), (1000, 4): Cell(B, (1, 3)), (1000, 7): Cell(C), (3000, 4): Cell(A)}, looked={2000}
)
RULES = Rules((0, 1000, 1500, 2000, 3000), {1: "stand", 2: "sit", 3: "wave"}, frozenset({1, 2}))


def cell(box, *actions):
    return {"box": list(box), "actions": list(actions)}


def change(second, person, before, after):
    return {"second": second, "person": person, "before": before, "after": after}


def apply(document, *changes, rules=RULES, **options):
    return document.apply(patch_of(document, rules, list(changes), **options))


def invert(patch):
    """Return the patch that undoes another one."""
    return tuple(Change(key, after, before) for key, before, after in patch)


def patch_to_json(patch):
    """Return a patch as the page sends it."""
    return [
        {
            "second": seconds(time),
            **({} if person is None else {"person": person}),
            "before": cell_to_json(before) if isinstance(before, Cell) else before,
            "after": cell_to_json(after) if isinstance(after, Cell) else after,
        }
        for (time, person), before, after in patch
    ]


def test_a_patch_changes_cells_and_what_was_looked_at():
    after = apply(
        DOCUMENT,
        change(1, 7, cell(C), cell(A, 2)),
        change(1.5, 9, None, cell(B)),
        change(3, 4, cell(A), None),
        {"second": 2, "before": True, "after": False},
    )
    assert after.cells == {
        (0, 4): Cell(A, (1,)),
        (1000, 4): Cell(B, (1, 3)),
        (1000, 7): Cell(A, (2,)),
        (1500, 9): Cell(B),
    }
    assert after.looked == {0, 1000}
    assert after.next_person == 10


def test_a_keyframe_with_an_action_was_looked_at():
    after = apply(DOCUMENT, change(3, 4, cell(A), cell(A, 3)))
    assert after.looked == {0, 1000, 2000, 3000}
    assert 3000 in apply(after, {"second": 3, "before": True, "after": False}).looked
    after = apply(after, change(3, 4, cell(A, 3), None))
    assert 3000 in after.looked  # background, until it is stated otherwise
    assert 3000 not in apply(after, {"second": 3, "before": True, "after": False}).looked


def test_undo_keeps_a_keyframe_looked_at_if_someone_else_has_an_action_there():
    first = patch_of(DOCUMENT, RULES, [change(3, 4, cell(A), cell(A, 1))])
    document = apply(DOCUMENT.apply(first), change(3, 8, None, cell(C, 3)))
    assert 3000 in apply(document, *patch_to_json(invert(first))).looked


def test_a_patch_is_applied_only_to_the_state_that_it_was_made_for():
    delete = change(1, 7, cell(C), None)
    after = apply(DOCUMENT, delete)
    with pytest.raises(EditConflictError, match="second 1, person 7: has been changed by someone else"):
        apply(after, change(1, 7, cell(C), cell(A)))
    assert apply(after, delete) == after  # the answer to the first attempt was lost
    with pytest.raises(EditConflictError, match="person 4 has been added by someone else"):
        apply(DOCUMENT, change(2, 4, None, cell(A)), new_people=[4])
    assert apply(DOCUMENT, change(2, 8, None, cell(A)), new_people=[8]).cells[2000, 8] == Cell(A)


def test_values_are_compared_as_the_files_store_them():
    after = apply(
        DOCUMENT, change(0, 4, cell((0.1, 0.1, 0.30000000001, 0.5), 1), cell((0, 0, 1, 0.3333333), 3, 1))
    )
    assert after.cells[0, 4] == Cell((0.0, 0.0, 1.0, 0.333333), (1, 3))


def test_undo_restores_what_a_file_contained_although_no_edit_could_create_it():
    odd = Cell((-0.0005, 0.1, 0.3, 0.5), (1, 2))
    document = new_document({(0, 4): odd}, ())
    rules = Rules(RULES.keyframes, RULES.actions, RULES.poses, original=document.cells)
    delete = patch_of(document, rules, [change(0, 4, cell(odd.box, 1, 2), None)])
    assert apply(document.apply(delete), *patch_to_json(invert(delete)), rules=rules).cells == document.cells
    with pytest.raises(EditError, match="coordinates must be in"):
        apply(document, change(1, 4, None, cell(odd.box, 1)), rules=rules)


BAD = [
    (change(0, 4, cell(A, 1), cell((0.5, 0.1, 0.4, 0.9))), "x1 must be smaller than x2"),
    (change(0, 4, cell(A, 1), cell((0.5, 0.1, 0.5000001, 0.9))), "x1 must be smaller than x2"),
    (change(0, 4, cell(A, 1), cell((0.5, 0.1, 1.2, 0.9))), r"coordinates must be in \[0, 1\]"),
    (change(0, 4, cell(A, 1), cell((float("nan"), 0, 1, 1))), "four numbers"),
    (change(0, 4, cell(A, 1), cell((1e999, 0, 1, 1))), "four numbers"),
    (change(0, 4, cell(A, 1), cell((0.1, 0.2, 0.3))), "four numbers"),
    (change(0, 4, cell(A, 1), {"box": "x", "actions": []}), "box: expected a list"),
    (change(0, 4, cell(A, 1), {"box": list(A)}), "box and actions"),
    (change(0, 4, cell(A, 1), cell(A, 4)), "the label map has no action 4"),
    (change(0, 4, cell(A, 1), cell(A, True)), "the label map has no action True"),
    (change(0, 4, cell(A, 1), cell(A, 1, 2)), "one pose at a time, got stand and sit"),
    (change(0.5, 4, None, cell(A)), "second 0.5 is no keyframe"),
    (change(9, 4, None, cell(A)), "second 9 is no keyframe"),
    (change("0", 4, None, cell(A)), "expected seconds"),
    (change(float("nan"), 4, None, cell(A)), "expected seconds"),
    (change(True, 4, None, cell(A)), "expected seconds"),
    (change(2, -1, None, cell(A)), "expected an id from 0"),
    (change(2, 2**31, None, cell(A)), "expected an id from 0"),
    (change(2, "p1", None, cell(A)), "expected an id from 0"),
    ({"second": 0, "before": None, "after": True}, "true or false"),
    ({"second": 0}, "second, before and after"),
    ("x", "second, before and after"),
]


@pytest.mark.parametrize(("bad", "problem"), BAD)
def test_invalid_patches_are_refused_with_one_sentence(bad, problem):
    with pytest.raises(EditError, match=problem) as error:
        apply(DOCUMENT, bad)
    assert "\n" not in str(error.value)


def test_invalid_lists_are_refused():
    for content, problem in (
        ("x", "patch: expected a list"),
        ([change(2, 1, None, cell(A))] * 2, "person 1 twice"),
    ):
        with pytest.raises(EditError, match=problem):
            patch_of(DOCUMENT, RULES, content)
    with pytest.raises(EditError, match="new_people: expected a list"):
        patch_of(DOCUMENT, RULES, [change(2, 1, None, cell(A))], new_people=3)


def test_a_keyframe_holds_as_many_people_as_training_takes():
    people = [change(2, 10 + number, None, cell(A)) for number in range(2001)]
    with pytest.raises(EditError, match="second 2: at most 2000 people"):
        apply(DOCUMENT, *people)


def test_a_conflict_in_one_value_changes_nothing():
    with pytest.raises(EditConflictError):
        DOCUMENT.apply((Change((2000, None), True, False), Change((0, 4), None, Cell(A))))


keys = st.tuples(st.sampled_from([0, 1, 1.5, 2, 3]), st.sampled_from([None, 4, 7, 8]))
boxes = st.sampled_from([A, B, C])
actions = st.sampled_from([(), (1,), (2,), (3,), (1, 3)])
cells = st.none() | st.builds(cell, boxes).flatmap(lambda c: actions.map(lambda a: {**c, "actions": list(a)}))
EDITS = st.lists(st.dictionaries(keys, st.tuples(st.booleans(), cells), max_size=4), max_size=10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EDITS)
def test_undoing_any_edits_restores_the_document_and_redoing_repeats_them(edits):
    document, patches = DOCUMENT, []
    for edit in edits:
        content = []
        for (second, person), (flag, value) in edit.items():
            before = document.get((round(second * 1000), person))
            before = cell(before.box, *before.actions) if isinstance(before, Cell) else before
            key = {"second": second} | ({} if person is None else {"person": person})
            content.append({**key, "before": before, "after": flag if person is None else value})
        patch = patch_of(document, RULES, content)
        patches.append((document, patch))
        document = document.apply(patch)
        assert document.active_times() <= document.looked
    final = document
    for before, patch in reversed(patches):
        document = apply(document, *patch_to_json(invert(patch)))
        assert (document.cells, document.looked) == (before.cells, before.looked)
    for _, patch in patches:
        document = apply(document, *patch_to_json(patch))
    assert (document.cells, document.looked) == (final.cells, final.looked)
    assert document_from_json(document_to_json(document), document.next_person) == document
