/* Edits on their way to the server. An edit is shown at once, sent in order, and kept until the server has saved it.

`state.kind` is "saved", "saving", "failing" (sent again until it succeeds) or "conflict" (another page changed the same
cells: the user decides). */
import { client, getVideo, postPatch } from "./api.js";
import { EDITS, Refusal, complete, fits, inverse, same } from "./edits.js";
import { VideoDocument } from "./document.js";

const WAITS = [500, 1000, 2000, 5000]; // ms between attempts
const MAX_KEPT = 2_000_000; // characters of the lists of undo that survive a reload
const INVALID = new Set([400, 413, 422]); // statuses of a request that can never succeed
const documents = new Map();
let queue = [], sending = false, timer = null, failures = 0;
let poses = new Set(), storage = "unsaved", keeping = "undo", kept = {}, listeners = { changed() {}, refused() {} };
export const state = { kind: "saved", reason: "", count: 0, conflict: null };

export function startStore(dataset, callbacks) {
  poses = new Set(dataset.actions.filter(({ kind }) => kind === "PERSON_MOVEMENT").map(({ id }) => id));
  storage = `unsaved edits of ${dataset.name}`;
  keeping = `undo of ${dataset.name}`;
  kept = JSON.parse(sessionStorage.getItem(keeping) ?? "{}");
  addEventListener("pagehide", keepLists);
  listeners = callbacks;
  addEventListener("online", retryNow);
  addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });
}
export async function openDocument(video) {
  if (documents.has(video)) reload(video).catch(() => {}); // another page may have changed it while this one did not listen
  else recall(await load(video));
  return documents.get(video);
}
async function load(video) {
  documents.set(video, new VideoDocument(await getVideo(video), poses));
  return documents.get(video);
}
/* Load the server's state again, and put the edits that are not saved yet on top. */
export async function reload(video) {
  const doc = documents.get(video);
  if (!doc) return;
  doc.load(await getVideo(video));
  rebase(doc);
  listeners.changed();
}

/* Apply an edit, and send it. Return the entry, or null if nothing changes. Throws a Refusal. */
export function perform(doc, name, args) {
  const entry = enqueue(doc, name, args);
  if (entry) {
    doc.undo.push(entry);
    doc.redo = [];
  }
  return entry;
}
export const undo = (doc) => step(doc, doc.undo, doc.redo, inverse);
export const redo = (doc) => step(doc, doc.redo, doc.undo, (patch) => patch);
function step(doc, from, to, direction) {
  const entry = from.pop();
  if (!entry) return null;
  enqueue(doc, "patch", { patch: direction(entry.patch) });
  to.push(entry);
  return entry;
}
function enqueue(doc, name, args) {
  const patch = complete(doc, EDITS[name](doc, args));
  if (!patch.length) return null;
  const entry = { doc, name, args, patch, created: doc.createdBy(patch) };
  doc.apply(patch);
  queue.push(entry);
  changed();
  send();
  return entry;
}

/* Show the confirmed state with the edits that are on their way. */
function rebase(doc) {
  doc.shown = doc.base.clone();
  doc.index = null;
  for (const entry of queue) if (entry.doc === doc) doc.apply(entry.patch);
}
function changed() {
  state.count = queue.length;
  if (state.kind !== "conflict") {
    if (!queue.length) state.kind = "saved";
    else if (!failures) state.kind = "saving";
  }
  remember();
  listeners.changed();
}

async function send() {
  if (sending || state.conflict) return;
  sending = true;
  clearTimeout(timer);
  while (queue.length && !state.conflict) {
    const entry = queue[0];
    try {
      const answer = await postPatch(entry.doc.id, entry.patch, entry.created);
      queue.shift();
      failures = 0;
      confirm(entry, answer);
    } catch (error) {
      if (error.status === 409 && error.answer.document) settle(entry, error.answer.document);
      else if (INVALID.has(error.status)) reject(entry, error.message);
      else { fail(error.message); break; }
    }
    changed();
  }
  sending = false;
}
function fail(reason) {
  Object.assign(state, { kind: "failing", reason });
  timer = setTimeout(send, WAITS[Math.min(failures++, WAITS.length - 1)]);
  changed();
}
export function retryNow() {
  clearTimeout(timer);
  send();
}
function confirm({ doc, patch }, { revision, findings }) {
  const isNext = revision === doc.revision + 1;
  doc.base.apply(patch);
  Object.assign(doc, { revision, findings: findings ?? doc.findings });
  if (!isNext) reload(doc.id).catch(() => {}); // another page's edit came between, or the server was restarted
}
/* Take back an edit that the server cannot accept. */
function reject(entry, reason) {
  forget(entry);
  rebase(entry.doc);
  listeners.refused(`Not saved, taken back: ${reason}`);
}
function forget(entry) {
  queue = queue.filter((other) => other !== entry);
  for (const name of ["undo", "redo"]) entry.doc[name] = entry.doc[name].filter((other) => other !== entry);
}

/* The server's document differs from what an edit was based on. */
function settle(entry, json) {
  const { doc } = entry;
  doc.load(json);
  if (entry.patch.every((change) => same(doc.base.get(change), change.after))) queue.shift(); // the answer was lost
  else {
    const differences = entry.patch.filter((change) => !same(doc.base.get(change), change.before))
      .map((change) => ({ ...change, after: doc.base.get(change) }));
    const taken = entry.created.filter((person) => [...doc.base.cells.values()].some((row) => row.has(person)));
    Object.assign(state, { kind: "conflict", conflict: { entry, differences, taken } });
  }
  rebase(doc);
}
/* End a conflict: repeat the edit on the present state, or drop it. The edits after it follow. */
export function endConflict(repeat) {
  const { entry } = state.conflict, { doc } = entry;
  Object.assign(state, { kind: "saving", conflict: null });
  if (!repeat) forget(entry);
  const waiting = queue.filter((other) => other.doc === doc);
  doc.shown = doc.base.clone();
  doc.index = null;
  for (const next of waiting) recompute(next);
  rebase(doc);
  changed();
  send();
}
/* Compute a waiting edit again. An undo or redo of cells that another page changed overwrites them. */
function recompute(entry) {
  const { doc, name, args } = entry;
  try {
    const force = name === "patch" && !fits(doc.shown, args.patch);
    const patch = force ? args.patch.map((change) => ({ ...change, before: doc.shown.get(change) })) : complete(doc, EDITS[name](doc, args));
    const created = doc.createdBy(patch), { patch: was, created: were } = entry;
    Object.assign(entry, { patch, created });
    if (!patch.length) throw new Refusal("nothing is left to change");
    doc.apply(patch);
    were.forEach((person, k) => { if (created[k] !== undefined && created[k] !== person) rename(entry, person, created[k], was); });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    forget(entry);
    listeners.refused(`An edit was dropped: ${error.message}`);
  }
}
/* A new person got another id: the edits that wait name it too. */
function rename(entry, from, to) {
  for (const later of queue.slice(queue.indexOf(entry) + 1)) {
    if (later.doc !== entry.doc) continue;
    for (const name of ["person", "other"]) if (later.args[name] === from) later.args[name] = to;
    if (later.name === "patch")
      later.args.patch = later.args.patch.map((change) => (change.person === from ? { ...change, person: to } : change));
  }
}

/* Edits that are not saved survive a reload of the page. */
function remember() {
  try {
    const content = queue.map(({ doc, name, args, patch, created }) => ({ video: doc.id, name, args, patch, created }));
    if (content.length) sessionStorage.setItem(storage, JSON.stringify(content));
    else sessionStorage.removeItem(storage);
  } catch { /* no room: the page still has them */ }
}
export async function restore() {
  const content = JSON.parse(sessionStorage.getItem(storage) ?? "[]");
  for (const { video, ...entry } of content) {
    const doc = documents.get(video) ?? await load(video).catch(() => null);
    if (!doc) { listeners.refused(`Edits of ${video}, which is not there any more, were not saved.`); continue; }
    queue.push({ ...entry, doc });
    doc.apply(entry.patch);
  }
  for (const doc of documents.values())
    if (!recall(doc)) doc.undo = queue.filter((entry) => entry.doc === doc);
  if (content.length) { changed(); send(); }
  return content.length;
}

/* So do the lists of undo and redo, the newest entries first. */
function keepLists() {
  let room = MAX_KEPT;
  const last = (entries) => {
    const patches = [];
    for (const { patch } of entries.toReversed()) {
      room -= JSON.stringify(patch).length;
      if (room < 0) break;
      patches.unshift(patch);
    }
    return patches;
  };
  const lists = Object.fromEntries([...documents.values()].reverse().map((doc) => [doc.id, { undo: last(doc.undo), redo: last(doc.redo) }]));
  try { sessionStorage.setItem(keeping, JSON.stringify({ ...kept, ...lists })); } catch { /* no room */ }
}
/* Take over what was kept for a video; return whether something was. What others changed since ends the lists. */
function recall(doc) {
  const { undo, redo } = kept[doc.id] ?? {};
  if (!undo) return false;
  doc.undo = fitting(doc, undo, inverse);
  doc.redo = fitting(doc, redo, (patch) => patch);
  return true;
}
function fitting(doc, patches, direction) {
  const state = doc.shown.clone(), entries = [];
  for (const patch of patches.toReversed()) {
    if (!fits(state, direction(patch))) break;
    state.apply(direction(patch));
    entries.unshift({ patch });
  }
  return entries;
}

/* Another page changed a video, or the connection was lost meanwhile. */
export function heard({ type, video, ...event }) {
  const doc = documents.get(video);
  if (!doc) return;
  if (type === "presence") doc.clients = event.clients;
  if (type === "proposals") Object.assign(doc, { proposal_state: event.state, progress: event.progress, message: event.message });
  const isNews = type === "edit" ? event.client !== client && event.revision !== doc.revision : type === "proposals" && event.state === "ready";
  if (isNews) reload(video).catch(() => {});
  listeners.changed();
}
