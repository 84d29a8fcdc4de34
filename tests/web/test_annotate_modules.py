"""The edits of the annotation page, and how it saves them: JavaScript modules without a page around them."""

import threading
from itertools import chain
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

import vmae_det.web
from vmae_det.web.server import LocalServer
from vmae_det.web.static import PageFiles

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "annotate.md"
PAGE = Path(vmae_det.web.__file__).parent / "annotate" / "page"
LEFT, MIDDLE, RIGHT = [0.0, 0.2, 0.2, 0.8], [0.2, 0.2, 0.4, 0.8], [0.4, 0.2, 0.6, 0.8]
FAR = [0.8, 0.2, 1.0, 0.8]
STAND, WALK, CARRY, TALK = 1, 2, 11, 13  # the first two are poses
# Modules and a document, for the scripts of the tests.
PRELUDE = """
const done = arguments[arguments.length - 1], [given] = arguments;
(async () => {
  const { EDITS, Refusal, complete, inverse } = await import('/edits.js');
  const { VideoDocument } = await import('/document.js');
  const poses = new Set([1, 2]);
  const read = (cells, proposals = [], looked_at = []) => new VideoDocument({ id: 'street', revision: 0,
    keyframes: [0, 1, 2, 3, 4], proposals, findings: [], looked_at,
    cells: cells.map(([second, person, box, actions]) => ({ second, person, box, actions })) }, poses);
  const cellsOf = (doc) => [...doc.shown.cells]
    .flatMap(([second, row]) => [...row].map(([person, { box, actions }]) => [second, person, box, actions]))
    .sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  %s
})().then(done, (error) => done(String(error)));
"""


@pytest.fixture(scope="module")
def modules(browser):
    """A browser at an empty page of the server that has the modules."""
    app = Starlette(routes=[Route("/", lambda request: HTMLResponse("")), Mount("/", PageFiles(PAGE))])
    with LocalServer() as server:
        ready = threading.Event()
        thread = threading.Thread(target=server.run, args=(app,), kwargs={"announce": lambda _: ready.set()})
        thread.start()
        assert ready.wait(10)
        browser.open(server.address)
        yield browser
        browser.driver.get("about:blank")
        server.stop()
        thread.join()


def run(browser, script, given=None):
    return browser.driver.execute_async_script(PRELUDE % script, given)


def edit(browser, name, cells, arguments, proposals=(), looked=()):
    """Apply an edit; return the cells and what was looked at, or the sentence of a refusal.

    The inverse of every patch must restore the document.
    """
    result = run(
        browser,
        """
        const doc = read(given.cells, given.proposals, given.looked);
        const before = JSON.stringify([cellsOf(doc), [...doc.shown.looked].sort()]);
        try {
          const patch = complete(doc, EDITS[given.name](doc, given.arguments));
          doc.apply(patch);
          const result = { cells: cellsOf(doc), looked: [...doc.shown.looked].sort() };
          doc.apply(inverse(patch));
          result.isRestored = JSON.stringify([cellsOf(doc), [...doc.shown.looked].sort()]) === before;
          return result;
        } catch (error) {
          if (error instanceof Refusal) return { refusal: error.message };
          throw error;
        }""",
        {
            "name": name,
            "cells": cells,
            "arguments": arguments,
            "proposals": list(proposals),
            "looked": list(looked),
        },
    )
    assert isinstance(result, dict), result
    if "refusal" in result:
        return result["refusal"]
    assert result["isRestored"]
    return [tuple(cell) for cell in result["cells"]], result["looked"]


def test_hold_interpolates_the_boxes_that_are_missing(modules):
    cells = [(0, 7, LEFT, [WALK, CARRY]), (2, 7, RIGHT, [STAND])]
    after, looked = edit(modules, "hold", cells, {"person": 7, "from": 0, "to": 3})
    assert after == [
        (0, 7, LEFT, [WALK, CARRY]),
        (1, 7, MIDDLE, [WALK, CARRY]),
        (2, 7, RIGHT, [WALK, CARRY]),
        (3, 7, RIGHT, [WALK, CARRY]),
    ]
    assert looked == [0, 1, 2, 3]  # labels are in the dataset


def test_hold_with_boxes_replaces_those_between_the_ends(modules):
    cells = [(0, 7, LEFT, [WALK]), (1, 7, FAR, []), (2, 7, RIGHT, [])]
    after, _ = edit(modules, "hold", cells, {"person": 7, "from": 0, "to": 2, "boxes": True})
    assert [box for _, _, box, _ in after] == [LEFT, MIDDLE, RIGHT]


def test_hold_goes_backwards(modules):
    after, _ = edit(modules, "hold", [(2, 7, LEFT, [WALK])], {"person": 7, "from": 2, "to": 0})
    assert after == [(second, 7, LEFT, [WALK]) for second in (0, 1, 2)]


@pytest.mark.parametrize(
    ("actions", "pressed", "expected"),
    [
        ([], WALK, [WALK]),
        ([STAND, CARRY], WALK, [WALK, CARRY]),  # a person has one pose
        ([WALK, CARRY], WALK, [CARRY]),
        ([WALK, CARRY], TALK, [WALK, CARRY, TALK]),
        ([WALK, CARRY], CARRY, [WALK]),
    ],
)
def test_a_pose_replaces_the_other_pose(modules, actions, pressed, expected):
    arguments = {"second": 1, "person": 7, "action": pressed}
    assert edit(modules, "toggleAction", [(1, 7, LEFT, actions)], arguments) == (
        [(1, 7, LEFT, expected)],
        [1],
    )


def test_copies_labels_and_only_missing_boxes(modules):
    cells = [(0, 1, LEFT, [WALK]), (0, 2, RIGHT, [STAND]), (1, 1, MIDDLE, [])]
    after, _ = edit(modules, "copyPrevious", cells, {"second": 1, "person": None})
    assert after[2:] == [(1, 1, MIDDLE, [WALK]), (1, 2, RIGHT, [STAND])]
    assert "first keyframe" in edit(modules, "copyPrevious", cells, {"second": 0, "person": 1})
    hidden, _ = edit(modules, "copyPrevious", cells, {"second": 2, "person": 2})  # at second 1
    assert hidden[-1] == (2, 2, RIGHT, [STAND])
    assert edit(modules, "copyPrevious", cells, {"second": 2, "person": 9}) == "Person 9 has no box at 1 s."


def test_a_box_moves_those_that_follow_without_a_gap(modules):
    cells = [(s, 7, LEFT, []) for s in (0, 1, 2, 4)]
    arguments = {"second": 1, "person": 7, "box": [0.1, 0.2, 0.3, 0.7]}
    moved = [box for _, _, box, _ in edit(modules, "setBox", cells, {**arguments, "follow": True})[0]]
    assert moved == [LEFT, [0.1, 0.2, 0.3, 0.7], [0.1, 0.2, 0.3, 0.7], LEFT]
    assert edit(modules, "setBox", cells, arguments)[0][2] == (2, 7, LEFT, [])


def test_joins_and_splits(modules):
    cells = [(0, 3, LEFT, [WALK]), (1, 8, MIDDLE, [WALK]), (2, 8, RIGHT, [])]
    joined, _ = edit(modules, "join", cells, {"person": 8, "other": 3})
    assert [(second, person) for second, person, *_ in joined] == [(0, 3), (1, 3), (2, 3)]
    split, _ = edit(modules, "split", cells, {"person": 8, "second": 2})
    assert [(second, person) for second, person, *_ in split] == [(0, 3), (1, 8), (2, 9)]
    both = [*cells, (1, 3, FAR, [])]
    assert "Person 3 and Person 8 both have a box at 1 s" in edit(
        modules, "join", both, {"person": 3, "other": 8}
    )
    assert "on one side" in edit(modules, "split", cells, {"person": 8, "second": 1})


def test_cuts_and_deletes(modules):
    cells = [(s, person, LEFT, []) for s in (0, 1, 2, 3) for person in (3, 8)]
    left = lambda name, **arguments: [c[:2] for c in edit(modules, name, cells, arguments)[0] if c[1] == 3]  # noqa: E731
    assert left("cut", person=3, **{"from": 2, "to": 1}) == [(0, 3), (3, 3)]
    assert left("deleteBox", person=3, second=0) == [(1, 3), (2, 3), (3, 3)]
    assert left("deletePerson", person=3) == []


def test_boxes_of_a_proposed_track_go_to_one_person(modules):
    scores = [[STAND, 0.3], [WALK, 0.4], [CARRY, 0.6], [TALK, 0.4]]
    boxes = enumerate((LEFT, MIDDLE, RIGHT))
    track = [{"second": s, "person": "p1", "box": box, "score": 0.9, "actions": scores} for s, box in boxes]
    other = {"second": 1, "person": "p2", "box": FAR, "score": 0.5, "actions": []}
    accept = {"second": 1, "all": [*track, other]}
    cells = [(0, 5, LEFT, [WALK])]  # accepted before
    after, looked = edit(
        modules, "accept", cells, {**accept, "proposals": [track[1], other]}, accept["all"], [0]
    )
    assert after[1:] == [(1, 5, MIDDLE, [WALK, CARRY]), (1, 6, FAR, [])]  # the likeliest pose, likely others
    assert looked == [0, 1]


def test_a_keyframe_with_labels_cannot_be_unseen(modules):
    arguments = {"second": 1, "looked": False}
    assert "has labels" in edit(modules, "setLooked", [(1, 7, LEFT, [WALK])], arguments, looked=[1])
    assert edit(modules, "setLooked", [(1, 7, LEFT, [])], arguments, looked=[1]) == ([(1, 7, LEFT, [])], [])


# A server in place of `fetch`: `answers` are taken in order, then each patch is applied.
SAVING = """
  const { startStore, openDocument, perform, undo, redo, state, endConflict } =
    await import(`/store.js?${Math.random()}`);
  const sent = [], told = [], answers = [];
  let stored = [[1, 7, [0, 0, 0.5, 1], []]], revision = 0;
  const json = () => ({ id: 'street', revision, keyframes: [0, 1, 2, 3], looked_at: [], proposals: [],
    findings: [],
    cells: stored.map(([second, person, box, actions]) => ({ second, person, box, actions })) });
  const respond = (status, content) => new Response(JSON.stringify(content), { status });
  window.fetch = async (path, options = {}) => {
    if (!options.method) return respond(200, json());
    const { edit } = JSON.parse(options.body), answer = answers.shift();
    if (answer === 'lost') throw new TypeError('network');
    if (answer) return respond(answer, { error: 'no room', document: json() });
    const found = (c) => stored.find(([second, person]) => second === c.second && person === c.person);
    sent.push(edit.patch);
    for (const change of edit.patch.filter((c) => c.person !== undefined)) {
      stored = stored.filter((entry) => entry !== found(change));
      if (change.after) stored.push([change.second, change.person, change.after.box, change.after.actions]);
    }
    return respond(200, { revision: ++revision, findings: [] });
  };
  startStore({ name: 'set', actions: [1, 2].map((id) => ({ id, kind: 'PERSON_MOVEMENT' })) }, {
    changed() {}, refused: (text) => told.push(text) });
  const doc = await openDocument('street');
  const wait = () => new Promise((resolve) => setTimeout(resolve, 5));
  const until = async (condition) => {
    for (let k = 0; !condition(); k++) {
      if (k === 2000) throw new Error(`never ${condition}`);
      await wait();
    }
  };
  const label = (action) => perform(doc, 'toggleAction', { second: 1, person: 7, action });
  const labels = () => stored.find(([second, person]) => second === 1 && person === 7)[3];
"""


def test_edits_that_fail_are_kept_and_sent_again_in_order(modules):
    result = run(
        modules,
        SAVING
        + """
        answers.push('lost', 503);
        label(1); label(11); label(2);
        const shown = doc.cell(1, 7).actions;
        await until(() => state.kind === 'failing' && state.count === 3);
        const reason = state.reason, kept = sessionStorage.length;
        await until(() => state.kind === 'saved');
        const left = sessionStorage.length, order = sent.map((patch) => patch[0].after.actions);
        return { shown, reason, kept, left, order, labels: labels() };""",
    )
    assert result == {
        "shown": [2, 11],  # at once
        "reason": "the server does not answer",
        "kept": 1,
        "left": 0,
        "order": [[1], [1, 11], [2, 11]],
        "labels": [2, 11],
    }


def test_an_answer_that_was_lost_is_no_conflict(modules):
    result = run(
        modules,
        SAVING
        + """
        label(1);
        await until(() => state.kind === 'saved');
        stored = [[1, 7, [0, 0, 0.5, 1], [2]]]; // the server saved the next edit, and could not say so
        answers.push(409);
        label(2);
        await until(() => state.kind === 'saved');
        return [doc.cell(1, 7).actions, doc.undo.length, told];""",
    )
    assert result == [[2], 2, []]


@pytest.mark.parametrize("repeats", [True, False])
def test_a_conflict_is_decided_by_the_user(modules, repeats):
    result = run(
        modules,
        SAVING
        + """
        stored = [[1, 7, [0, 0, 0.5, 1], [13]]]; // of another page
        answers.push(409);
        label(1); label(11);
        await until(() => state.kind === 'conflict');
        const seen = state.conflict.differences.map(({ after }) => after.actions);
        endConflict(given);
        await until(() => state.kind === 'saved');
        return [seen, labels(), doc.cell(1, 7).actions];""",
        repeats,
    )
    expected = [1, 11, 13] if repeats else [11, 13]  # the edit that waited behind it is kept
    assert result == [[[13]], expected, expected]


def test_a_new_person_gets_another_id_if_another_page_took_it(modules):
    result = run(
        modules,
        SAVING
        + """
        stored.push([2, 8, [0, 0, 0.1, 0.1], [1]]);
        answers.push(409);
        perform(doc, 'addPerson', { second: 1, box: [0.5, 0, 1, 1] });
        perform(doc, 'toggleAction', { second: 1, person: 8, action: 2 });
        await until(() => state.kind === 'conflict');
        const { taken } = state.conflict;
        endConflict(true);
        await until(() => state.kind === 'saved');
        return [taken, stored.map(([second, person, , actions]) => [second, person, actions])];""",
    )
    assert result == [[8], [[1, 7, []], [2, 8, [1]], [1, 9, [2]]]]


def test_an_edit_that_is_refused_is_taken_back(modules):
    result = run(
        modules,
        SAVING
        + """
        answers.push(422);
        label(1); label(11);
        await until(() => state.kind === 'saved');
        return [told, doc.undo.length];""",
    )
    assert result == [["Not saved, taken back: no room"], 1]


def test_undo_and_redo_have_no_end(modules):
    result = run(
        modules,
        SAVING
        + """
        for (let k = 0; k < 100; k++) label(11);
        label(1);
        for (let k = 0; k < 101; k++) undo(doc);
        const undone = doc.cell(1, 7).actions, none = undo(doc);
        for (let k = 0; k < 101; k++) redo(doc);
        await until(() => state.kind === 'saved');
        return [undone, none, labels(), redo(doc)];""",
    )
    assert result == [[], None, [1], None]


def tables(modules):
    """Return the tables of commands: title and [{keys, shown, what}]."""
    return run(
        modules,
        """
        const { SECTIONS, MODES } = await import('/commands.js');
        return [...SECTIONS, ...Object.values(MODES)].map(([title, rows]) =>
          [title, rows.map(({ keys, shown, what }) => ({ keys, shown, what }))]);""",
    )


def test_no_key_has_two_commands(modules):
    keys = [[key for row in rows for key in row["keys"]] for _, rows in tables(modules)]
    for table in (list(chain.from_iterable(keys[:5])), *keys[5:]):  # five sections are one table
        assert len(table) == len(set(table))


def test_the_guide_lists_all_keys(modules):
    guide = GUIDE.read_text(encoding="utf-8")
    for title, rows in tables(modules):
        lines = [f"| **{title}** | |", *(f"| `{row['shown']}` | {row['what']} |" for row in rows)]
        assert "\n".join(lines) in guide


@pytest.mark.parametrize("count", [3, 80, 400])
def test_each_action_has_a_key_of_its_own(modules, count):
    keys = run(
        modules,
        """
        const { SECTIONS } = await import('/commands.js');
        const { assignKeys, actionKeys } = await import('/labels.js');
        const taken = SECTIONS.flatMap(([, rows]) => rows.flatMap(({ keys }) => keys));
        actionKeys.clear();
        const kindOf = (k) => (k < given / 2 ? 'OBJECT_MANIPULATION' : 'PERSON_MOVEMENT');
        const actions =
          Array.from({ length: given }, (_, k) => ({ id: k + 1, name: `${k}`, kind: kindOf(k) }));
        assignKeys(actions, new Set(taken));
        return [[...actionKeys].map(([key, { id }]) => [key, id]), taken];""",
        count,
    )
    assigned, taken = keys
    assert len(assigned) == min(count, 172)  # the others by name
    assert len({key for key, _ in assigned}) == len(assigned)
    assert not {key.split(" ")[0] for key, _ in assigned} & set(taken)
    assert assigned[0] == ["1", count // 2 + count % 2 + 1]  # poses first
