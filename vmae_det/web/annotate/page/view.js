/* What the page shows: video, keyframe, selected person or proposal, and the mode. */
import { MOMENT, isCovered, likelyActions } from "./edits.js";

export const view = {
  dataset: null,
  actions: new Map(), // id -> {id, name, kind}
  doc: null,
  index: 0, // of the keyframe
  person: null, // a number, the id of a proposed track, or null
  mode: null, // {name: "box" | "hold" | "cut" | "join", ...}
  dismissed: new Set(), // proposals that were rejected here
};
/* Draw everything again, once per frame of the screen. */
let draw = () => {}, pending = false;
export function onChange(callback) { draw = callback; }
export function refresh() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; draw(); });
}

export const second = () => view.doc.keyframes[view.index];
export const selectedCell = () => (isPerson(view.person) ? view.doc.cell(second(), view.person) : null);
export const selectedBox = () => selectedCell()?.box ?? proposalsAt(second()).find((p) => p.person === view.person)?.box ?? null;
export const isPerson = (person) => typeof person === "number";
export const isProposal = (person) => typeof person === "string";
export const dismissalOf = ({ second: s, person }) => `${view.doc.id}/${s}/${person}`;

/* Return second -> proposals that are neither covered by a box nor dismissed. */
let cache = {};
export function openProposals() {
  const { doc, dismissed } = view, index = doc.people();
  if (cache.index === index && cache.proposals === doc.proposals && cache.dismissed === dismissed.size) return cache.found;
  const found = new Map();
  for (const proposal of doc.proposals) {
    if (dismissed.has(dismissalOf(proposal)) || isCovered(doc, proposal)) continue;
    if (!found.has(proposal.second)) found.set(proposal.second, []);
    found.get(proposal.second).push(proposal);
  }
  cache = { index, proposals: doc.proposals, dismissed: dismissed.size, found };
  return found;
}
export const proposalsAt = (s) => openProposals().get(s) ?? [];
export const proposalsOf = (track) => [...openProposals().values()].flat().filter(({ person }) => person === track)
  .sort((a, b) => a.second - b.second);

/* Return who can be selected at this keyframe: people, those who were there a moment before, proposals. */
export function selectable() {
  const { doc, index } = view, ascending = (people) => [...new Set(people)].sort((a, b) => a - b);
  const here = ascending(doc.at(second()).keys());
  const before = doc.keyframes.slice(Math.max(0, index - MOMENT), index).flatMap((s) => [...doc.at(s).keys()]);
  const absent = ascending(before).filter((person) => !here.includes(person));
  return [...here, ...absent, ...proposalsAt(second()).map(({ person }) => person)];
}
/* Return the rows of the timeline: a person or a proposed track, and the seconds of its boxes. */
export function rows() {
  const tracks = new Map();
  for (const { second: s, person } of [...openProposals().values()].flat()) {
    if (!tracks.has(person)) tracks.set(person, []);
    tracks.get(person).push(s);
  }
  const inOrder = [...tracks].map(([person, seconds]) => [person, seconds.sort((a, b) => a - b)]).sort((a, b) => a[1][0] - b[1][0]);
  return [...view.doc.people(), ...inOrder].map(([person, seconds]) => ({ person, seconds }));
}
/* Return the findings of a person at a keyframe; `person` null: of the keyframe. */
let index = {};
export function findingsAt(s, person) {
  const { findings } = view.doc;
  if (index.findings !== findings) index = { findings, found: Map.groupBy(findings, (f) => f.second) };
  return (index.found.get(s) ?? []).filter((f) => f.person === person);
}

/* Actions of a cell or a proposal, poses first. */
export function actionsOf(entry) {
  const ids = isProposal(entry.person) ? likelyActions(view.doc, entry.actions ?? []) : entry.actions;
  const known = ids.map((id) => view.actions.get(id) ?? { id, name: `action ${id}`, kind: null });
  return known.sort((a, b) => view.doc.poses.has(b.id) - view.doc.poses.has(a.id));
}
