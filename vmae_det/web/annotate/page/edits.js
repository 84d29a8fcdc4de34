/* Edits of a video's annotations.

A cell is the box and the actions of a person at a keyframe. An edit is a pure function of a document and its arguments;
it returns a patch: changes {second, person, before, after} of cells, and changes {second, before, after} of whether a
keyframe was looked at. An edit that makes no sense throws a Refusal, with a sentence for the user. */
import { personName, secondText } from "./dom.js";

export class Refusal extends Error {}

/* The cells of a video, and the keyframes that were looked at. */
export class Annotations {
  constructor(cells = new Map(), looked = new Set()) {
    this.cells = cells; // second -> person -> {box, actions}
    this.looked = looked;
  }
  clone() { return new Annotations(new Map([...this.cells].map(([s, row]) => [s, new Map(row)])), new Set(this.looked)); }
  get({ second, person }) {
    return person === undefined ? this.looked.has(second) : this.cells.get(second)?.get(person) ?? null;
  }
  apply(patch) {
    for (const { second, person, after } of patch) {
      if (person === undefined) {
        if (after) this.looked.add(second); else this.looked.delete(second);
        continue;
      }
      if (!this.cells.has(second)) this.cells.set(second, new Map());
      if (after) this.cells.get(second).set(person, after); else this.cells.get(second).delete(person);
    }
  }
}

const sameNumbers = (a, b) => a.length === b.length && a.every((value, k) => value === b[k]);
export function same(a, b) {
  if (!a || !b || a === true || b === true) return a === b;
  return sameNumbers(a.box, b.box) && sameNumbers(a.actions, b.actions);
}
export const fits = (annotations, patch) => patch.every((change) => same(annotations.get(change), change.before));
export const inverse = (patch) => patch.map(({ before, after, ...rest }) => ({ ...rest, before: after, after: before }));

/* Boxes: x1, y1, x2, y2 as fractions of the frame. */
export const MIN_SIZE = 0.004;
export function tidyBox(box) {
  const limit = (value, low, high) => Math.min(Math.max(value, low), high);
  const [x1, y1] = [limit(Math.min(box[0], box[2]), 0, 1 - MIN_SIZE), limit(Math.min(box[1], box[3]), 0, 1 - MIN_SIZE)];
  const [x2, y2] = [limit(Math.max(box[0], box[2]), x1 + MIN_SIZE, 1), limit(Math.max(box[1], box[3]), y1 + MIN_SIZE, 1)];
  return [x1, y1, x2, y2].map((value) => Number(value.toFixed(4)));
}
export const mix = (a, b, share) => a.map((value, k) => value + share * (b[k] - value));
export function overlap(a, b) {
  const shared = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  return shared / (area(a) + area(b) - shared || 1);
}

export const MOMENT = 3; // keyframes for which a person may be hidden
/* A proposal is covered if somebody has a box there. */
const COVERED = 0.6; // IoU
const covers = (cell, { box }) => overlap(cell.box, box) > COVERED;
export const isCovered = (doc, proposal) => [...doc.at(proposal.second).values()].some((cell) => covers(cell, proposal));
export const coveredBy = (doc, second, person) =>
  doc.proposals.filter((proposal) => proposal.second === second && covers(doc.cell(second, person), proposal));
/* Return the person whose boxes a proposed track has elsewhere, or null. */
function personOfTrack(doc, track, proposals) {
  const votes = new Map();
  for (const proposal of proposals)
    if (proposal.person === track)
      for (const [id, cell] of doc.at(proposal.second)) if (covers(cell, proposal)) votes.set(id, (votes.get(id) ?? 0) + 1);
  return [...votes].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
}
/* Return the actions of a proposal that are accepted: the best pose, and what is more likely than not. */
export function likelyActions(doc, scored) {
  const poses = scored.filter(([id]) => doc.poses.has(id)).sort((a, b) => b[1] - a[1]);
  const others = scored.filter(([id, score]) => !doc.poses.has(id) && score >= 0.5);
  return [...poses.slice(0, 1), ...others].map(([id]) => id).sort((a, b) => a - b);
}

/* Boxes from files may exceed the frame by their rounding; what the page writes does not. */
const isInside = (box) => box.every((value) => value >= 0 && value <= 1);
const inside = (cell) => (cell && !isInside(cell.box) ? { ...cell, box: tidyBox(cell.box) } : cell);
const change = (doc, second, person, after) => ({ second, person, before: doc.cell(second, person), after: inside(after) });
/* A keyframe at which somebody has an action was looked at: it is in the dataset. */
export function complete(doc, patch) {
  const named = new Set(patch.filter(({ person }) => person === undefined).map(({ second }) => second));
  const active = patch.filter(({ second, person, after }) => person !== undefined && after?.actions.length && !named.has(second));
  return [...patch, ...[...new Set(active.map(({ second }) => second))].flatMap((second) => looked(doc, second))];
}
const looked = (doc, second, after = true) => (doc.looked(second) === after ? [] : [{ second, before: !after, after }]);
function need(doc, second, person) {
  const cell = doc.cell(second, person);
  if (!cell) throw new Refusal(`${personName(person)} has no box at ${secondText(second)}.`);
  return cell;
}
/* Drop changes that change nothing; refuse if nothing is left. */
function effective(patch, otherwise) {
  const left = patch.filter((entry) => !same(entry.before, entry.after));
  if (!left.some((entry) => entry.person !== undefined)) throw new Refusal(otherwise);
  return left;
}
/* Return the keyframes from one to another, in this direction, without the first. */
function walk(doc, from, to) {
  const inside = doc.keyframes.filter((s) => s >= Math.min(from, to) && s <= Math.max(from, to) && s !== from);
  return from <= to ? inside : inside.reverse();
}

export const EDITS = {
  addPerson(doc, { second, box }) {
    return [change(doc, second, doc.newPerson(), { box: tidyBox(box), actions: [] }), ...looked(doc, second)];
  },
  /* Move or resize a box; `follow`: also the boxes that follow without a gap, by as much. */
  setBox(doc, { second, person, box, follow = false }) {
    const cell = need(doc, second, person), shift = box.map((value, k) => value - cell.box[k]);
    const patch = [change(doc, second, person, { ...cell, box: tidyBox(box) })];
    for (const next of follow ? walk(doc, second, Infinity) : []) {
      const later = doc.cell(next, person);
      if (!later) break;
      patch.push(change(doc, next, person, { ...later, box: tidyBox(later.box.map((value, k) => value + shift[k])) }));
    }
    return [...effective(patch, "The box is unchanged."), ...looked(doc, second)];
  },
  /* Add or remove an action. A pose replaces the other pose. */
  toggleAction(doc, { second, person, action }) {
    const cell = need(doc, second, person), has = cell.actions.includes(action);
    const kept = cell.actions.filter((id) => id !== action && !(doc.poses.has(action) && doc.poses.has(id)));
    const actions = has ? kept : [...kept, action].sort((a, b) => a - b);
    return [change(doc, second, person, { ...cell, actions }), ...looked(doc, second)];
  },
  /* As at the keyframe before, or a moment before if the person was hidden: actions, and the box where there is none.
     `person` null: everybody of the keyframe before. */
  copyPrevious(doc, { second, person }) {
    const index = doc.keyframes.indexOf(second), earlier = doc.keyframes.slice(Math.max(0, index - MOMENT), index).reverse();
    if (!earlier.length) throw new Refusal("This is the first keyframe.");
    const before = person === null ? earlier[0] : earlier.find((s) => doc.cell(s, person)) ?? earlier[0];
    const cells = person === null ? [...doc.at(before)] : [[person, need(doc, before, person)]];
    const patch = cells.map(([id, { box, actions }]) => change(doc, second, id, { box: doc.cell(second, id)?.box ?? box, actions }));
    return [...effective(patch, `Nothing differs from ${secondText(before)}.`), ...looked(doc, second)];
  },
  /* Repeat the actions of a keyframe up to another. Missing boxes are interpolated; `boxes`: all between the two are. */
  hold(doc, { person, from, to, boxes = false }) {
    const { actions } = need(doc, from, person), range = walk(doc, from, to);
    const isAnchor = (s) => s === from || (doc.cell(s, person) && (!boxes || s === to));
    const anchors = [from, ...range].filter(isAnchor);
    const boxAt = (second) => {
      const index = anchors.findLastIndex((s) => Math.abs(s - from) <= Math.abs(second - from));
      const [a, b] = [anchors[index], anchors[index + 1] ?? anchors[index]];
      const [first, last] = [doc.cell(a, person).box, doc.cell(b, person).box];
      return a === second || a === b ? first : tidyBox(mix(first, last, (second - a) / (b - a)));
    };
    const patch = range.map((second) => change(doc, second, person, { box: boxAt(second), actions }));
    return [...effective(patch, "Nothing to change in this range."), ...looked(doc, from)];
  },
  deleteBox(doc, { second, person }) {
    need(doc, second, person);
    return [change(doc, second, person, null), ...looked(doc, second)];
  },
  deletePerson(doc, { person }) {
    return (doc.people().get(person) ?? []).map((second) => change(doc, second, person, null));
  },
  /* Delete the boxes of a person in a range. */
  cut(doc, { person, from, to }) {
    const patch = [from, ...walk(doc, from, to)].map((second) => change(doc, second, person, null));
    return effective(patch, `${personName(person)} has no box in this range.`);
  },
  /* Make two people one, who has the lower number. */
  join(doc, { person, other }) {
    const [keep, drop] = [Math.min(person, other), Math.max(person, other)];
    const seconds = doc.people().get(drop) ?? [], both = seconds.find((second) => doc.cell(second, keep));
    if (both !== undefined)
      throw new Refusal(`${personName(keep)} and ${personName(drop)} both have a box at ${secondText(both)}. Delete one of them first.`);
    return seconds.flatMap((second) => [change(doc, second, drop, null), change(doc, second, keep, doc.cell(second, drop))]);
  },
  /* From this keyframe on, the boxes belong to a new person. */
  split(doc, { second, person }) {
    const seconds = doc.people().get(person) ?? [], after = seconds.filter((s) => s >= second), id = doc.newPerson();
    if (!after.length || after.length === seconds.length)
      throw new Refusal(`${personName(person)} has boxes on one side of ${secondText(second)} only.`);
    return after.flatMap((s) => [change(doc, s, person, null), change(doc, s, id, doc.cell(s, person))]);
  },
  setLooked(doc, { second, looked: after }) {
    if (!after && [...doc.at(second).values()].some(({ actions }) => actions.length))
      throw new Refusal(`${secondText(second)} has labels, so it was looked at. Remove them first.`);
    return looked(doc, second, after);
  },
  /* Turn proposals into cells. Boxes of a track that is accepted in part go to the same person. Only the keyframe at which
     the user is was looked at. */
  accept(doc, { second: here, proposals, all }) {
    const ids = new Map(), patch = [];
    let next = doc.newPerson();
    for (const { second, person: track, box, actions } of proposals) {
      if (!ids.has(track)) ids.set(track, personOfTrack(doc, track, all) ?? next++);
      if (doc.cell(second, ids.get(track))) ids.set(track, next++);
      patch.push(change(doc, second, ids.get(track), { box: tidyBox(box), actions: likelyActions(doc, actions ?? []) }));
    }
    if (!patch.length) throw new Refusal("There are no proposals here.");
    return [...patch, ...looked(doc, here)];
  },
  patch(doc, { patch }) {
    if (!fits(doc.shown, patch)) throw new Refusal("Another page changed this since. It stays as it is.");
    return patch;
  },
};
