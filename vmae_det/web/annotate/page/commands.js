/* Everything that a key or a button does, in tables: the same tables handle keys, make buttons, and fill the page of keys.

`keys`: names as in keys.js. `shown`: what people read. `button`: the text of its button, if it has one. */
import { getNext, postProposals } from "./api.js";
import { movedBox } from "./boxes.js";
import { byId, personName, secondText, shortName } from "./dom.js";
import { Refusal, coveredBy, overlap, tidyBox } from "./edits.js";
import { clearNotice, notify, say } from "./messages.js";
import { go, leaveMode, lookAt, openVideo } from "./navigate.js";
import { chooseHeight, player, setPlaying } from "./player.js";
import { perform, redo, undo } from "./store.js";
import { reveal } from "./timeline.js";
import { askSecond, chooseVideo } from "./videos.js";
import { dismissalOf, isPerson, isProposal, openProposals, proposalsAt, proposalsOf, refresh, second, selectable, selectedCell, view } from "./view.js";

const STEPS = [0.1, 0.02, 0.005, 0.001]; // of the frame, of an arrow key while a box is edited
let lastSize = [0.2, 0.6];

/* Run an edit; a refusal becomes a notice. Return whether it was done. */
function edit(name, args, told) {
  try {
    const entry = perform(view.doc, name, args);
    if (entry) { clearNotice(); say(told); }
    return entry;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    notify(error.message);
    say(error.message);
    return null;
  } finally {
    refresh();
  }
}
function selected() {
  if (isPerson(view.person)) return view.person;
  notify(isProposal(view.person) ? "Accept the proposal first (Enter)." : "Select a person first (↑ ↓).");
  return null;
}
/* Run a command of the selected person. */
const withPerson = (run) => () => { const person = selected(); if (person !== null) run(person); };

export function select(person, announce = true) {
  view.person = person;
  lookAt(0);
  reveal();
  refresh();
  if (!announce || person === null) return;
  const cell = selectedCell(), names = cell?.actions.map((id) => shortName(view.actions.get(id)?.name ?? String(id))) ?? [];
  say(`${personName(person)}, ${isPerson(person) ? (cell ? names.join(", ") || "no label" : "no box here") : "proposed"}`);
}
function stepPerson(direction) {
  const all = selectable(), at = all.indexOf(view.person);
  if (all.length) select(all[at < 0 ? (direction > 0 ? 0 : all.length - 1) : (at + direction + all.length) % all.length]);
}
export function toggle(action) {
  const person = selected();
  if (person === null) return;
  const had = view.doc.cell(second(), person)?.actions.includes(action.id);
  edit("toggleAction", { second: second(), person, action: action.id }, `${action.name} ${had ? "off" : "on"}`);
}

/* Boxes */
export function addBox(box) {
  const entry = edit("addPerson", { second: second(), box }, "box added");
  if (!entry) return;
  lastSize = [box[2] - box[0], box[3] - box[1]];
  select(entry.patch[0].person, false);
}
export function changeBox(box, follow = false) {
  if (isPerson(view.person)) edit("setBox", { second: second(), person: view.person, box, follow }, "box changed");
}
function startBox(isNew) {
  const cell = selectedCell(), [w, h] = lastSize;
  if (!isNew && !cell) { notify(isPerson(view.person) ? `${personName(view.person)} has no box here. Press c to copy the one before.` : "Select a box first (↑ ↓)."); return; }
  player.frozen = true;
  const [x, y] = [w, h].map((length) => Number((0.5 - length / 2).toFixed(3))); // so that steps reach round numbers
  view.mode = { name: "box", isNew, person: isNew ? null : view.person, step: 1, box: isNew ? tidyBox([x, y, x + w, y + h]) : cell.box };
  say(isNew ? "New box" : "Edit box");
  refresh();
}
const boxStep = (right, down, corner) => () => {
  const { mode } = view, step = STEPS[mode.step], [x1, y1, x2, y2] = mode.box;
  mode.box = corner ? tidyBox([x1, y1, Math.max(x2 + right * step, x1), Math.max(y2 + down * step, y1)]) : movedBox(mode.box, right * step, down * step);
  refresh();
};
function finishBox(follow) {
  const { isNew, box } = view.mode;
  leaveMode();
  if (isNew) addBox(box); else changeBox(box, follow);
}

/* Ranges and joins */
const startRange = (what) => withPerson((person) => {
  if (what === "hold" && !selectedCell()) { notify(`${personName(person)} has no box here.`); return; }
  view.mode = { name: what, person, from: second() };
  say(what === "hold" ? "Hold until" : "Cut until");
  refresh();
});
function finishRange(boxes) {
  const { name, person, from } = view.mode, to = second();
  leaveMode();
  edit(name, { person, from, to, boxes }, `${name} until ${secondText(to)}`);
}
function cancelMode() {
  const { from } = view.mode;
  leaveMode();
  if (from !== undefined) go(view.doc.keyframes.indexOf(from));
  else refresh();
}
/* Who continues a person: others without a common keyframe, nearest in time, then in place. */
function continuations(person) {
  const { doc } = view, mine = doc.people().get(person) ?? [];
  const cost = (seconds) => {
    const pairs = [[mine.at(-1), seconds[0]], [seconds.at(-1), mine[0]]].map(([a, b]) => [Math.abs(b - a), a, b]);
    return Math.min(...pairs.map(([gap]) => gap));
  };
  const likeness = (other, seconds) => overlap(doc.cell(mine.at(-1), person).box, doc.cell(seconds[0], other).box);
  return [...doc.people()].filter(([other]) => other !== person)
    .map(([other, seconds]) => ({ other, common: seconds.some((s) => mine.includes(s)), gap: cost(seconds), likeness: likeness(other, seconds) }))
    .sort((a, b) => a.common - b.common || a.gap - b.gap || b.likeness - a.likeness).map(({ other }) => other);
}
const startJoin = withPerson((person) => {
  const others = continuations(person);
  if (!others.length) { notify("There is nobody else to join with."); return; }
  view.mode = { name: "join", person, others, other: others[0] };
  say(`Join with ${personName(others[0])}`);
  refresh();
});
const stepJoin = (direction) => () => {
  const { mode } = view, at = mode.others.indexOf(mode.other) + direction;
  mode.other = mode.others[(at + mode.others.length) % mode.others.length];
  say(personName(mode.other));
  reveal();
  refresh();
};
function finishJoin() {
  const { person, other } = view.mode;
  leaveMode();
  if (!edit("join", { person, other }, `joined ${personName(other)}`)) return;
  select(Math.min(person, other), false);
  notify(`${personName(Math.max(person, other))} is part of ${personName(view.person).toLowerCase()} now.`);
}
const splitHere = withPerson((person) => {
  const entry = edit("split", { second: second(), person }, "split");
  if (entry) select(entry.patch.find(({ after }) => after).person, false);
});
function remove(everywhere) {
  const { person } = view;
  const dismiss = (proposals) => { for (const proposal of proposals) view.dismissed.add(dismissalOf(proposal)); };
  if (isProposal(person)) {
    dismiss(everywhere ? proposalsOf(person) : proposalsAt(second()).filter((p) => p.person === person));
    say("proposal dismissed");
    select(selectable()[0] ?? null, false);
  } else withPerson(() => {
    const seconds = everywhere ? view.doc.people().get(person) ?? [] : selectedCell() ? [second()] : [];
    const covered = seconds.flatMap((s) => coveredBy(view.doc, s, person)); // would be proposed again otherwise
    if (!edit(everywhere ? "deletePerson" : "deleteBox", { second: second(), person }, "deleted")) return;
    dismiss(covered);
    if (everywhere) select(selectable().find((p) => p !== person) ?? null, false);
  })();
}

/* Proposals */
function accept(proposals, told) {
  const entry = edit("accept", { second: second(), proposals, all: view.doc.proposals }, told);
  if (!entry) return;
  const here = entry.patch.find((change) => change.person !== undefined && change.second === second());
  if (here) select(here.person, false);
  if (proposals.length > 1) notify(`${told}. z takes it back.`);
}
function acceptHere() {
  const here = proposalsAt(second());
  accept(here, `Accepted ${here.length === 1 ? "one box" : `${here.length} boxes`}`);
}
const acceptSelected = (track) => () => {
  if (!isProposal(view.person)) { notify(openProposals().size ? "Select a proposal first (↑ ↓)." : "There are no proposals. Press p to find people."); return; }
  const wanted = track ? proposalsOf(view.person) : proposalsAt(second()).filter(({ person }) => person === view.person);
  accept(wanted, track ? `Accepted a track of ${wanted.length}` : "accepted");
};
async function propose() {
  try {
    const { doc } = view, { proposal_state, progress, message } = await postProposals(doc.id);
    if (doc.proposal_state !== "ready" || proposal_state !== "running") Object.assign(doc, { proposal_state, progress, message });
    notify("Finding people. Go on meanwhile.");
  } catch (error) { notify(`No proposals: ${error.message}.`); }
  refresh();
}

/* Queues and keyframes */
async function next(kind, nothing) {
  try {
    const found = await getNext(kind, view.doc.id, second());
    if (found) openVideo(found.video, found.second); else notify(nothing);
  } catch (error) { notify(`${error.message}.`); }
}
/* Go to the next finding of this video, around to the first one. */
function nextProblem() {
  const { findings, keyframes } = view.doc, people = selectable();
  if (!findings.length) { notify("No problems were found in this video."); return; }
  const rank = ({ second: s, person }) => [s, s === second() ? people.indexOf(person) : -1]; // people here are in the order of the list
  const here = [second(), people.indexOf(view.person)], isAfter = ([s, k]) => s > here[0] || (s === here[0] && k > here[1]);
  const found = findings.find((finding) => isAfter(rank(finding))) ?? findings[0];
  go(keyframes.indexOf(found.second));
  if (found.person !== null) select(found.person, false);
  notify(found.text[0].toUpperCase() + found.text.slice(1));
  say(found.text);
}
function stepVideo(direction) {
  const { videos } = view.dataset, found = videos[videos.findIndex(({ id }) => id === view.doc.id) + direction];
  if (found) openVideo(found.id); else notify(direction > 0 ? "This is the last video." : "This is the first video.");
}
function markLooked(after) {
  edit("setLooked", { second: second(), looked: after }, after ? "looked at" : "not looked at");
  if (after) go(view.index + 1);
}
function zoomBy(direction) {
  lookAt(direction);
  chooseHeight(view.doc);
  refresh();
}
async function goToSecond() {
  const wanted = await askSecond(second());
  if (wanted === null) return;
  const distance = (s) => Math.abs(s - wanted);
  go(view.doc.keyframes.reduce((best, s, k) => (distance(s) < distance(view.doc.keyframes[best]) ? k : best), 0));
}
function takeBack(run, word) {
  try {
    const entry = run(view.doc);
    if (!entry) { notify(`Nothing to ${word}.`); return; }
    const place = entry.patch.find(({ second: s }) => s !== undefined);
    if (!entry.patch.some(({ second: s }) => s === second())) go(view.doc.keyframes.indexOf(place.second));
    const person = entry.patch.find((change) => change.person !== undefined)?.person;
    if (person !== undefined && view.doc.people().has(person)) view.person = person;
    if (isPerson(view.person) && !view.doc.people().has(view.person)) view.person = selectable()[0] ?? null;
    say(`${word} done`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    notify(error.message);
  }
  refresh();
}

const row = (keys, shown, what, run, button = null) => ({ keys: keys.split(" ").map((name) => (name === "Space" ? " " : name)), shown, what, run, button });
const MOVES = [
  row("ArrowLeft", "←", "previous keyframe", () => go(view.index - 1)),
  row("ArrowRight", "→", "next keyframe", () => go(view.index + 1)),
  row("shift+ArrowLeft", "⇧←", "ten keyframes back", () => go(view.index - 10)),
  row("shift+ArrowRight", "⇧→", "ten keyframes on", () => go(view.index + 10)),
  row("Home", "Home", "first keyframe", () => go(0)),
  row("End", "End", "last keyframe", () => go(Infinity)),
];
export const SECTIONS = [
  ["Move", [
    ...MOVES,
    row("g", "g", "go to a second", goToSecond),
    row("Space", "space", "play or stop the clip", () => { setPlaying(!player.playing); refresh(); }),
    row("+ =", "+", "zoom in, on the selected box", () => zoomBy(1)),
    row("-", "−", "zoom out", () => zoomBy(-1)),
    row("ArrowUp", "↑", "previous person or proposal", () => stepPerson(-1)),
    row("ArrowDown", "↓", "next person or proposal", () => stepPerson(1)),
    row("/", "/", "choose a video", chooseVideo),
    row("[", "[", "previous video", () => stepVideo(-1)),
    row("]", "]", "next video", () => stepVideo(1)),
    row("u", "u", "next keyframe not yet looked at", () => next("unseen", "All keyframes were looked at."), "Not looked at"),
    row("w", "w", "next problem of this video, such as two boxes of one person", nextProblem, "Problems"),
    row("i", "i", "next keyframe that the detector is least certain of", () => next("uncertain", "The detector has no scores for keyframes not looked at."), "Least certain"),
  ]],
  ["Boxes and labels", [
    row("n", "n", "new box", () => startBox(true), "New box"),
    row("e", "e", "move or resize the box", () => startBox(false), "Edit box"),
    row("x Delete", "x", "delete this box, or dismiss the proposal", () => remove(false), "Delete box"),
    row("c", "c", "as one keyframe before: labels, and box if there is none", withPerson((person) => edit("copyPrevious", { second: second(), person }, "copied")), "As before"),
    row("shift+c", "⇧c", "the same for everybody", () => edit("copyPrevious", { second: second(), person: null }, "copied everybody"), "All as before"),
    row("f", "f", "find a label by name", () => byId("find").focus()),
    row("d", "d", "done: mark the keyframe as looked at, go to the next", () => markLooked(true), "Done"),
    row("shift+d", "⇧d", "mark the keyframe as not looked at", () => markLooked(false)),
    row("z ctrl+z", "z", "undo", () => takeBack(undo, "undo"), "Undo"),
    row("shift+z ctrl+shift+z ctrl+y", "⇧z", "redo", () => takeBack(redo, "redo"), "Redo"),
  ]],
  ["Tracks", [
    row("h", "h", "hold: repeat the labels until another keyframe", startRange("hold"), "Hold"),
    row("k", "k", "cut: delete the boxes until another keyframe", startRange("cut"), "Cut"),
    row("j", "j", "join with another person", startJoin, "Join"),
    row("s", "s", "split: a new person from this keyframe on", splitHere, "Split"),
    row("shift+x", "⇧x", "delete the person, or dismiss the proposed track", () => remove(true), "Delete person"),
  ]],
  ["Proposals", [
    row("p", "p", "find the people of this video", propose, "Find people"),
    row("Enter", "Enter", "accept the selected proposal", acceptSelected(false)),
    row("a", "a", "accept all proposals of this keyframe", acceptHere, "Accept here"),
    row("shift+a", "⇧a", "accept the entire track of the selected proposal", acceptSelected(true), "Accept track"),
  ]],
  ["Other", [
    row("Escape", "Esc", "select nobody", () => select(null)),
    row("?", "?", "this page", () => byId("help").showModal()),
  ]],
];
const cancel = row("Escape", "Esc", "cancel", cancelMode, "Cancel");
const box = (name, shown, what, right, down, corner = false) => row(name, shown, what, boxStep(right, down, corner));
const changeStep = (by) => () => { view.mode.step = Math.min(Math.max(view.mode.step + by, 0), STEPS.length - 1); refresh(); };
export const MODES = {
  box: ["While a box is edited", [
    box("ArrowLeft", "←", "move left", -1, 0), box("ArrowRight", "→", "move right", 1, 0),
    box("ArrowUp", "↑", "move up", 0, -1), box("ArrowDown", "↓", "move down", 0, 1),
    box("shift+ArrowLeft", "⇧←", "narrower", -1, 0, true), box("shift+ArrowRight", "⇧→", "wider", 1, 0, true),
    box("shift+ArrowUp", "⇧↑", "shorter", 0, -1, true), box("shift+ArrowDown", "⇧↓", "taller", 0, 1, true),
    row(",", ",", "smaller steps", changeStep(1), "Finer"), row(".", ".", "larger steps", changeStep(-1), "Coarser"),
    row("Enter", "Enter", "keep the box here", () => finishBox(false), "Keep"),
    row("shift+Enter", "⇧Enter", "also move the boxes that follow without a gap", () => finishBox(true)),
    cancel,
  ]],
  hold: ["While labels are held", [
    ...MOVES,
    row("Enter", "Enter", "hold until this keyframe; missing boxes are interpolated", () => finishRange(false), "Until here"),
    row("shift+Enter", "⇧Enter", "the same, and interpolate all boxes between the two keyframes", () => finishRange(true), "With boxes"),
    cancel,
  ]],
  cut: ["While boxes are cut", [...MOVES, row("Enter", "Enter", "delete the boxes until this keyframe", () => finishRange(false), "Until here"), cancel]],
  join: ["While a person to join is chosen", [
    row("ArrowUp", "↑", "previous person", stepJoin(-1), "Previous"), row("ArrowDown", "↓", "next person", stepJoin(1), "Next"),
    row("Enter", "Enter", "join", finishJoin, "Join"),
    cancel,
  ]],
};
export function hintOfMode() {
  const { mode } = view;
  if (!mode) return "";
  if (mode.name === "box") return `${mode.isNew ? "New box: drag, or" : "Box:"} arrows move, ⇧ arrows resize, by ${100 * STEPS[mode.step]} % (, and .). Enter keeps it.`;
  if (mode.name === "join") return `Join ${personName(mode.person).toLowerCase()} with ${personName(mode.other).toLowerCase()}? ↑ ↓ choose, Enter joins.`;
  const labels = mode.name === "hold" ? "Hold the labels" : "Delete the boxes";
  return `${labels} of ${personName(mode.person).toLowerCase()} from ${secondText(mode.from)} to ${secondText(second())}. ← → choose, Enter ends.`;
}
