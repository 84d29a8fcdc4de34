/* Boxes over the picture: drawn, selected, moved and resized. */
import { byId, colorOf, fit, freshContext, personName, shortName } from "./dom.js";
import { MIN_SIZE, mix, tidyBox } from "./edits.js";
import { pictureRect, player } from "./player.js";
import { actionsOf, findingsAt, isPerson, proposalsAt, second, selectedCell, view } from "./view.js";

const canvas = byId("boxes"), stage = byId("stage");
const SMALL = 56; // CSS pixels: sides of boxes with handles at the corners only
const CROWDED = 0.3; // of a label that others and heads cover: it is shortened
const DRAG = 4, TOUCH = 22, MOUSE = 9; // CSS pixels: before a press is a drag; size of handles
let press = null; // {start, kind: "draw" | "move" | "select" | [edges], box, moved}

/* Return what is drawn: person or proposal, box, the entry with its actions, and how sure its place is in this frame. While the
   clip plays, boxes move to those of the next or previous keyframe; without one they fade, because the person moves on. */
function shown() {
  const step = Math.sign(player.time), next = view.doc.keyframes[view.index + step];
  const share = step && next !== undefined ? Math.min(1, Math.abs(player.time / (next - second()))) : Math.abs(player.time);
  const item = (person, entry, other) => {
    if (view.mode?.name === "box" && view.mode.person === person) return { person, entry, box: view.mode.box, opacity: 1 };
    return { person, entry, box: other ? mix(entry.box, other.box, share) : entry.box, opacity: other ? 1 : Math.max(0.3, 1 - 1.5 * share) };
  };
  const nextProposals = step ? proposalsAt(next) : [];
  const people = [...view.doc.at(second())].map(([person, cell]) => item(person, cell, step && view.doc.cell(next, person)));
  const proposals = proposalsAt(second()).map((entry) => item(entry.person, entry, nextProposals.find(({ person }) => person === entry.person)));
  const drafts = view.mode?.isNew ? [{ person: null, box: view.mode.box, entry: { actions: [] }, opacity: 1 }] : [];
  return [...proposals, ...people, ...drafts];
}
const isChosen = (person) => person === (view.mode?.isNew ? null : view.mode?.name === "join" ? view.mode.other : view.person);
function toPixels(box) {
  const [left, top, width, height] = pictureRect();
  return box.map((value, k) => (k % 2 ? top + value * height : left + value * width));
}

export function drawBoxes() {
  const pen = freshContext(canvas, stage.clientWidth, stage.clientHeight);
  if (!view.doc) return;
  const items = shown().map((item) => ({ ...item, pixels: toPixels(item.box), chosen: isChosen(item.person) }));
  items.sort((a, b) => a.chosen - b.chosen);
  for (const item of items) { pen.globalAlpha = item.opacity; outline(pen, item); }
  const taken = items.map(({ pixels: [x1, y1, x2, y2] }) => [x1, y1, x2, y1 + (y2 - y1) / 5]);
  const labels = items.toReversed().filter(({ person }) => person !== null).map((item) => placeLabel(pen, item, taken));
  for (const item of labels.toReversed()) { pen.globalAlpha = item.opacity; drawLabel(pen, item); } // that of the selected person last
  pen.globalAlpha = 1;
  for (const item of items) if (isPerson(item.person) && findingsAt(second(), item.person).length) badge(pen, item.pixels);
}
function outline(pen, { person, pixels: [x1, y1, x2, y2], chosen }) {
  const draft = person === null;
  pen.setLineDash(typeof person === "string" ? [6, 4] : []);
  for (const [color, width] of [["rgb(0 0 0 / 0.6)", chosen ? 5 : 3], [draft || (chosen && typeof person === "string") ? "#fff" : colorOf(person), chosen ? 3 : 1.5]]) {
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  pen.setLineDash([]);
  if (!chosen || typeof person === "string") return;
  const small = Math.min(x2 - x1, y2 - y1) < SMALL, size = small ? 5 : 7;
  const along = (a, b) => (small ? [a, b] : [a, (a + b) / 2, b]);
  for (const x of along(x1, x2))
    for (const y of along(y1, y2)) {
      if (x !== x1 && x !== x2 && y !== y1 && y !== y2) continue;
      pen.fillStyle = "#000";
      pen.fillRect(x - size / 2 - 1, y - size / 2 - 1, size + 2, size + 2);
      pen.fillStyle = "#fff";
      pen.fillRect(x - size / 2, y - size / 2, size, size);
    }
}
function setFont(pen, chosen, small) {
  pen.font = `${chosen ? 600 : 400} ${small ? 11 : 12.5}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
}
/* Return an item with the place and the text of its label. In a crowd, there is room for the number only. */
function placeLabel(pen, item, taken) {
  const { person, entry, pixels: [x1, y1, x2, y2], chosen } = item;
  const [left, top, width, height] = pictureRect(), small = width < 560, line = small ? 15 : 18;
  setFont(pen, chosen, small);
  const score = typeof person === "string" ? ` ${entry.score.toFixed(2)}` : "";
  const tag = String(person) + score;
  const names = actionsOf(entry).map(({ name }) => shortName(name)).join(", ") || (score ? "" : "no label");
  const tagWidth = pen.measureText(tag).width + 10, full = fit(pen, names, small ? 120 : 230);
  const cover = ([a, b, c, d]) => taken.reduce((sum, [p, q, r, s]) =>
    sum + Math.max(0, Math.min(c, r) - Math.max(a, p)) * Math.max(0, Math.min(d, s) - Math.max(b, q)), 0);
  const best = (w) => {
    const slots = [[x1, y1 - line - 3], [x1, y2 + 3], [x2 - w, y1 - line - 3], [x2 - w, y2 + 3], [x1 + 3, y1 + 3], [x1 + 3, y2 - line - 3]];
    return slots.map(([x, y]) => [Math.min(Math.max(x, left), left + width - w), Math.min(Math.max(y, top), top + height - line)])
      .map(([x, y]) => [x, y, x + w, y + line]).reduce((a, b) => (cover(b) < cover(a) - 1 ? b : a));
  };
  let text = full, place = best(tagWidth + (full ? pen.measureText(full).width + 10 : 0));
  if (!chosen && cover(place) > CROWDED * (place[2] - place[0]) * line) [text, place] = ["", best(tagWidth)];
  taken.push(place);
  return { ...item, small, tag, tagWidth, text, place };
}
function drawLabel(pen, { person, chosen, small, tag, tagWidth, text, place: [x, y, right, bottom] }) {
  const middle = (y + bottom) / 2 + 0.5;
  setFont(pen, chosen, small);
  pen.fillStyle = "rgb(18 20 24 / 0.82)";
  pen.fillRect(x, y, right - x, bottom - y);
  pen.fillStyle = colorOf(person);
  pen.fillRect(x, y, tagWidth, bottom - y);
  pen.fillStyle = "#101418";
  pen.fillText(tag, x + 5, middle);
  pen.fillStyle = text === "no label" ? "#ffb3a6" : "#fff";
  pen.fillText(text, x + tagWidth + 5, middle);
}
function badge(pen, [, y1, x2]) {
  pen.beginPath();
  pen.arc(x2, y1, 9, 0, 7);
  pen.fillStyle = "#c2321f";
  pen.fill();
  pen.fillStyle = "#fff";
  pen.font = "700 13px system-ui, sans-serif";
  pen.fillText("!", x2 - 2, y1 + 1);
}

/* Describe the boxes for screen readers, which do not see the canvas. */
export function describeBoxes() {
  const percent = (value) => `${Math.round(100 * value)}`;
  return shown().map(({ person, box, entry }) => {
    const names = person === null ? [] : actionsOf(entry).map(({ name }) => name);
    return `${person === null ? "New box" : personName(person)} at ${box.map(percent).join(", ")} percent${names.length ? `: ${names.join(", ")}` : ""}`;
  }).join(". ");
}

function position(event) {
  const [left, top, width, height] = pictureRect(), place = canvas.getBoundingClientRect();
  const limit = (value) => Math.min(Math.max(value, 0), 1);
  return [limit((event.clientX - place.left - left) / width), limit((event.clientY - place.top - top) / height)];
}
function hit([u, v]) {
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  const inside = shown().filter(({ person, box: [x1, y1, x2, y2] }) => person !== null && x1 <= u && u <= x2 && y1 <= v && v <= y2);
  return inside.sort((a, b) => area(a.box) - area(b.box))[0]?.person ?? null;
}
/* Return the edges of the selected box at a point: indices into the box; empty if none. */
function edgesAt(event, box) {
  const reach = event.pointerType === "mouse" ? MOUSE : TOUCH, place = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - place.left, event.clientY - place.top], [x1, y1, x2, y2] = toPixels(box);
  if (x < x1 - reach || x > x2 + reach || y < y1 - reach || y > y2 + reach) return [];
  const nearest = (value, a, b, k) => {
    const room = Math.min(reach, (b - a) / 3); // leaves the middle of small boxes for moving
    return Math.abs(value - a) <= (value < a ? reach : room) ? [k] : Math.abs(value - b) <= (value > b ? reach : room) ? [k + 2] : [];
  };
  return [...nearest(x, x1, x2, 0), ...nearest(y, y1, y2, 1)];
}

/* `on`: select(person), change(box) of the selected person, add(box), hold(): show the keyframe itself. */
export function wireBoxes(on) {
  canvas.onpointerdown = (event) => {
    if (event.button || !view.doc || (view.mode && view.mode.name !== "box")) return;
    const start = position(event), box = view.mode?.box ?? selectedCell()?.box ?? null, edges = box && !view.mode?.isNew ? edgesAt(event, box) : [];
    const person = hit(start), mine = box && start[0] >= box[0] && start[0] <= box[2] && start[1] >= box[1] && start[1] <= box[3];
    const kind = view.mode?.isNew ? "draw" : edges.length ? edges : mine ? "move" : person === null && event.pointerType === "mouse" ? "draw" : "select";
    press = { start, at: [event.clientX, event.clientY], kind, box, person, moved: false };
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    if (!press) { canvas.style.cursor = cursor(event); return; }
    press.moved ||= Math.hypot(event.clientX - press.at[0], event.clientY - press.at[1]) > DRAG;
    if (!press.moved || press.kind === "select") return;
    on.hold();
    const [u, v] = position(event), [u0, v0] = press.start;
    const person = press.kind === "draw" ? null : view.person, isNew = press.kind === "draw";
    view.mode = { name: "box", step: 1, ...view.mode, person, isNew, box: dragged(press, [u0, v0], [u, v]) };
    on.redraw();
  };
  canvas.onpointerup = () => {
    const { kind, moved, person } = press ?? {};
    press = null;
    if (moved && kind !== "select") {
      const { box, isNew } = view.mode;
      const [width, height] = [box[2] - box[0], box[3] - box[1]];
      view.mode = null;
      if (!isNew) on.change(box);
      else if (width > 2 * MIN_SIZE && height > 2 * MIN_SIZE) on.add(box);
      on.redraw();
    } else if (person !== undefined && !view.mode) on.select(person);
  };
  canvas.onpointercancel = () => { if (press?.moved) view.mode = null; press = null; on.redraw(); };
}
function dragged({ kind, box }, [u0, v0], [u, v]) {
  if (kind === "draw") return tidyBox([u0, v0, u, v]);
  const moved = [...box], shift = [u - u0, v - v0];
  if (kind === "move") return movedBox(box, ...shift);
  for (const k of kind) moved[k] = box[k] + shift[k % 2];
  return tidyBox(moved);
}
export function movedBox([x1, y1, x2, y2], right, down) {
  const dx = Math.min(Math.max(right, -x1), 1 - x2), dy = Math.min(Math.max(down, -y1), 1 - y2);
  return tidyBox([x1 + dx, y1 + dy, x2 + dx, y2 + dy]);
}
function cursor(event) {
  if (view.mode?.isNew) return "crosshair";
  const box = selectedCell()?.box, edges = box ? edgesAt(event, box).join() : "";
  if (edges) return { "0": "ew-resize", 2: "ew-resize", 1: "ns-resize", 3: "ns-resize", "0,1": "nwse-resize", "2,3": "nwse-resize" }[edges] ?? "nesw-resize";
  const person = hit(position(event));
  return person === null ? "crosshair" : person === view.person && isPerson(person) ? "move" : "pointer";
}
