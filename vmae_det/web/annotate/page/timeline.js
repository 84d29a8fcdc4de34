/* Timeline: a row per person or proposed track, a column per keyframe. Only what is visible is drawn, and only people
   with a box at a visible keyframe have a row, because a long video has hundreds of them. */
import { byId, colorOf, fit, freshContext, make, personName, shortName } from "./dom.js";
import { actionsOf, findingsAt, isPerson, proposalsAt, rows, second, view } from "./view.js";

const scroller = byId("scroller"), canvas = byId("bars"), names = byId("names");
const RULER = 36, ROW = 26; // CSS pixels
const colors = {};
let lanes = [], on = null;

export function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "soft", "line", "lane", "accent", "page", "bad"]) colors[name] = style.getPropertyValue(`--${name}`).trim();
}
const gutter = () => (scroller.clientWidth < 600 ? 104 : 200);
const room = () => scroller.clientWidth - gutter() - 8;
const column = () => Math.min(Math.max(room() / view.doc.keyframes.length, 22), 110); // CSS pixels per keyframe
const xOf = (index) => gutter() + index * column() - scroller.scrollLeft;

/* Return the first visible keyframe and the one after the last. */
function visible() {
  const begin = Math.max(0, Math.floor((scroller.scrollLeft + 4) / column()));
  return [begin, Math.min(view.doc.keyframes.length, Math.ceil((scroller.scrollLeft + room()) / column()))];
}
function layOut() {
  byId("sizer").style.width = `${gutter() + column() * view.doc.keyframes.length + 8}px`;
  const [begin, end] = visible(), [from, to] = [view.doc.keyframes[begin], view.doc.keyframes[end - 1]];
  lanes = rows().filter(({ person, seconds }) => person === chosen() || seconds.some((s) => s >= from && s <= to));
  byId("sizer").style.height = `${RULER + ROW * lanes.length + 4}px`;
}
const chosen = () => (view.mode?.name === "join" ? view.mode.other : view.person);

export function drawTimeline() {
  if (!view.doc) return;
  layOut();
  const [width, height] = [scroller.clientWidth, scroller.clientHeight], [begin, end] = visible();
  byId("sheet").style.width = `${width}px`;
  byId("sheet").style.height = `${height}px`;
  const pen = freshContext(canvas, width, height), top = scroller.scrollTop;
  const seen = lanes.map((lane, k) => ({ ...lane, k, y: RULER + k * ROW - top })).filter(({ y }) => y > RULER - ROW && y < height);
  pen.save();
  pen.beginPath();
  pen.rect(gutter(), 0, width, height);
  pen.clip();
  drawColumn(pen, height);
  pen.save();
  pen.beginPath();
  pen.rect(gutter(), RULER, width, height);
  pen.clip();
  for (const lane of seen) drawLane(pen, lane, begin, end, width);
  pen.restore();
  drawRuler(pen, begin, end);
  pen.restore();
  showNames(seen);
  byId("nobody").hidden = lanes.length > 0;
  byId("nobody").textContent = view.doc.people().size ? "Nobody has a box at these keyframes." : "No boxes yet. n draws one, p finds people.";
}
function drawColumn(pen, height) {
  pen.fillStyle = colors.accent;
  pen.globalAlpha = 0.16;
  pen.fillRect(xOf(view.index), 0, column(), height);
  pen.globalAlpha = 1;
}
/* Seconds, and below them a mark for each keyframe: filled if it was looked at. */
function drawRuler(pen, begin, end) {
  const step = [1, 2, 5, 10, 30, 60, 120, 300].find((count) => count * column() >= 46) ?? 600;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  for (let k = begin; k < end; k++) {
    const s = view.doc.keyframes[k], x = xOf(k), isHere = k === view.index, size = Math.min(column() - 4, 12);
    if (isHere || (k % step === 0 && Math.abs(k - view.index) * column() >= 40)) {
      pen.fillStyle = isHere ? colors.ink : colors.soft;
      pen.font = `${isHere ? "700 " : ""}11px system-ui, sans-serif`;
      const text = String(Number(s.toFixed(2)));
      pen.fillText(text, Math.max(x + column() / 2 - pen.measureText(text).width / 2, gutter()), 11);
    }
    pen.beginPath();
    pen.roundRect(x + column() / 2 - size / 2, 21, size, 8, 3);
    pen.fillStyle = pen.strokeStyle = view.doc.looked(s) ? colors.accent : colors.soft;
    pen.lineWidth = 1;
    if (view.doc.looked(s)) pen.fill(); else { pen.globalAlpha = 0.55; pen.stroke(); pen.globalAlpha = 1; }
  }
}
function drawLane(pen, { person, y }, begin, end, width) {
  pen.fillStyle = colors.line;
  pen.fillRect(gutter(), y + ROW - 1, width, 1);
  const range = view.mode?.from !== undefined && view.mode.person === person ? [view.mode.from, second()].sort((a, b) => a - b) : null;
  const runs = [];
  for (let k = begin; k < end; k++) {
    const s = view.doc.keyframes[k], x = xOf(k);
    if (range && s >= range[0] && s <= range[1]) {
      pen.fillStyle = view.mode.name === "cut" ? colors.bad : colors.accent;
      pen.globalAlpha = 0.35;
      pen.fillRect(x, y, column(), ROW - 1);
      pen.globalAlpha = 1;
    }
    const entry = isPerson(person) ? view.doc.cell(s, person) : proposalsAt(s).find((p) => p.person === person);
    if (!entry) continue;
    const text = actionsOf({ ...entry, person }).map(({ name }) => shortName(name)).join(", ");
    drawCell(pen, person, x, y, text);
    if (isPerson(person) && findingsAt(s, person).length) drawFinding(pen, x, y);
    const run = runs.at(-1);
    if (run && run.text === text && run.end === k) run.end = k + 1; else runs.push({ text, begin: k, end: k + 1 });
  }
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.fillStyle = colors.ink;
  for (const { text, begin: from, end: to } of runs) {
    const x = Math.max(xOf(from), gutter()) + 5;
    pen.fillText(fit(pen, text, Math.min(xOf(to), width) - x - 3), x, y + ROW / 2);
  }
}
function drawCell(pen, person, x, y, text) {
  const [left, top, width, height] = [x + 1.5, y + 3.5, column() - 3, ROW - 8];
  pen.beginPath();
  pen.roundRect(left, top, width, height, 3);
  pen.fillStyle = pen.strokeStyle = colorOf(person);
  pen.lineWidth = 1.5;
  if (text || !isPerson(person)) {
    pen.globalAlpha = isPerson(person) ? 0.38 : 0.14;
    pen.fill();
    pen.globalAlpha = 1;
  }
  pen.setLineDash(isPerson(person) ? [] : [3, 3]);
  if (!isPerson(person) || !text) pen.stroke();
  pen.setLineDash([]);
}
function drawFinding(pen, x, y) {
  pen.beginPath();
  pen.moveTo(x + column() - 11, y + 2);
  pen.lineTo(x + column() - 1, y + 2);
  pen.lineTo(x + column() - 1, y + 12);
  pen.fillStyle = colors.bad;
  pen.fill();
}
/* Names as elements, for screen readers. */
function showNames(seen) {
  const current = chosen();
  names.style.width = `${gutter()}px`;
  names.replaceChildren(...seen.map(({ person, seconds, k, y }) => {
    const dot = make("span", { class: isPerson(person) ? "dot" : "dot proposal" });
    if (isPerson(person)) dot.style.background = colorOf(person);
    const name = make("div", { class: "name", role: "option", id: `row-${person}`, "aria-posinset": k + 1, "aria-setsize": lanes.length,
      "aria-selected": String(person === current) }, dot, make("span", { class: "text" }, personName(person)), make("span", { class: "count" }, String(seconds.length)));
    name.style.transform = `translateY(${y - RULER}px)`;
    return name;
  }));
  const active = current !== null && byId(`row-${current}`);
  if (active) scroller.setAttribute("aria-activedescendant", active.id);
  else scroller.removeAttribute("aria-activedescendant");
}

/* Scroll so that the keyframe and the selected person are visible. */
export function reveal() {
  layOut();
  const left = view.index * column(), edge = Math.min(2 * column(), room() / 3);
  if (left - edge < scroller.scrollLeft) scroller.scrollLeft = left - edge;
  else if (left + column() + edge > scroller.scrollLeft + room()) scroller.scrollLeft = left + column() + edge - room();
  layOut();
  const k = lanes.findIndex(({ person }) => person === chosen());
  if (k < 0) return;
  const low = k * ROW, high = RULER + (k + 1) * ROW + 4 - scroller.clientHeight;
  if (low < scroller.scrollTop) scroller.scrollTop = low;
  else if (high > scroller.scrollTop) scroller.scrollTop = high;
}

/* `callbacks`: go(index), select(person). */
export function wireTimeline(callbacks) {
  on = callbacks;
  scroller.onscroll = () => requestAnimationFrame(drawTimeline);
  scroller.onclick = (event) => {
    const place = byId("sheet").getBoundingClientRect(), [x, y] = [event.clientX - place.left, event.clientY - place.top];
    const lane = y < RULER ? null : lanes[Math.floor((y - RULER + scroller.scrollTop) / ROW)];
    const index = Math.floor((x - gutter() + scroller.scrollLeft) / column());
    if (x >= gutter() && view.doc.keyframes[index] !== undefined) on.go(index);
    if (lane) on.select(lane.person);
  };
}
