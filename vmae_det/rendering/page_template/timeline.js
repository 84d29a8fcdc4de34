/* Timeline: a row per person and, if it is expanded, a row per action. Only visible rows are drawn. */
const scroller = byId("scroller"), bars = byId("bars"), names = byId("names"), playhead = byId("playhead");
const RULER = 24, PERSON_HEIGHT = 26, ACTION_HEIGHT = 20, OPEN_AT_FIRST = 60; // CSS pixels; rows
const MAX_SCALE = 400, MAX_WIDTH = 8e6; // CSS pixels per second; total CSS pixels, beyond which browsers cannot scroll
const colors = {};
let lanes = [], zoom = 1;

function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "soft", "line", "lane", "movement", "object", "interaction", "other"])
    colors[name] = style.getPropertyValue(`--${name}`).trim();
}
const KIND_COLOR = { PERSON_MOVEMENT: "movement", OBJECT_MANIPULATION: "object", PERSON_INTERACTION: "interaction" };
const colorName = (column) => KIND_COLOR[data.actions[column].kind] ?? "other";

const gutter = () => (scroller.clientWidth < 600 ? 118 : 220);
const laneWidth = () => Math.max(scroller.clientWidth - gutter() - 12, 50); // room for the label of the last tick
function scale() { return Math.min(laneWidth() * zoom, MAX_WIDTH) / data.duration; }
const xOf = (time) => gutter() + time * scale() - scroller.scrollLeft;
const timeAt = (x) => (x - gutter() + scroller.scrollLeft) / scale();

function setZoom(value) {
  const at = now, before = xOf(at) - gutter();
  zoom = Math.min(Math.max(value, 1), Math.max(1, (MAX_SCALE * data.duration) / laneWidth()));
  sizeTimeline();
  scroller.scrollLeft = at * scale() - Math.min(Math.max(before, 0), laneWidth());
  drawTimeline();
}

/* Compute the rows. People without actions that match the filters have none. */
function layOutTimeline() {
  lanes = [];
  let y = RULER;
  const add = (lane, height) => { lanes.push({ ...lane, y, height }); y += height; };
  for (const person of people) {
    const columns = columnsOf(person);
    if (!columns.length) continue;
    add({ person, column: null, count: columns.length }, PERSON_HEIGHT);
    if (person.open) for (const column of columns) add({ person, column }, ACTION_HEIGHT);
  }
  byId("nobody").hidden = lanes.length > 0;
  byId("nobody").textContent = people.length ? "No actions match the filter." : "No people were detected in this video.";
  lanes.height = y;
  sizeTimeline();
}
function sizeTimeline() {
  byId("sizer").style.width = `${gutter() + scale() * data.duration + 12}px`;
  byId("sizer").style.height = `${lanes.height + 6}px`;
  byId("sheet").style.width = `${scroller.clientWidth}px`;
  byId("sheet").style.height = `${scroller.clientHeight}px`;
}
function openAtFirst() {
  const total = people.reduce((sum, person) => sum + 1 + columnsOf(person).length, 0);
  for (const person of total <= OPEN_AT_FIRST ? people : people.slice(0, 1)) person.open = true;
}

function drawTimeline(chosen = choice) {
  const width = scroller.clientWidth, height = scroller.clientHeight, left = gutter(), top = scroller.scrollTop;
  const pen = freshContext(bars, width, height);
  const seen = lanes.filter((lane) => lane.y + lane.height > top + RULER && lane.y < top + height);
  drawGrid(pen, left, width, height);
  pen.save();
  pen.beginPath();
  pen.rect(left, RULER, width - left, height);
  pen.clip();
  for (const lane of seen) (lane.column === null ? drawPerson : drawAction)(pen, lane, lane.y - top, width);
  pen.restore();
  showNames(seen, top, left, chosen);
  movePlayhead();
}
function drawGrid(pen, left, width, height) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600];
  const step = steps.find((value) => value * scale() >= 64) ?? 7200;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  for (let k = Math.max(0, Math.ceil(timeAt(left) / step)); k * step <= Math.min(timeAt(width), data.duration + 1e-9); k++) {
    const x = Math.round(xOf(k * step)) + 0.5;
    pen.fillStyle = colors.line;
    pen.fillRect(x - 0.5, RULER - 5, 1, height);
    pen.fillStyle = colors.soft;
    const text = clockTime(k * step, step < 1 ? 1 : 0), half = pen.measureText(text).width / 2;
    pen.fillText(text, Math.min(Math.max(x - half, left), width - 2 * half - 2), 10);
  }
}
/* Yield the visible rows of a person: start and end in pixels, and the result of `pick`, an action or null. Of rows
   in the same pixel, the one with the highest score is used. */
function* barsIn(person, width, pick) {
  const left = gutter() - scroller.scrollLeft, factor = scale();
  let held = null;
  for (let i = Math.max(firstAfter(person, timeAt(gutter())) - 1, 0); i < person.rows.length; i++) {
    const span = spanOf(person, i), from = left + span[0] * factor, to = left + span[1] * factor;
    if (from > width) break;
    const action = pick(person.rows[i]);
    if (held && to - held.from < 1) {
      held.to = to;
      if (action && (!held.action || action.score > held.action.score)) held.action = action;
    } else {
      if (held) yield held;
      held = { from, to, action };
    }
  }
  if (held) yield held;
}

function drawPerson(pen, { person }, y, width) {
  const runs = []; // spans of consecutive rows with the same best action
  for (const { from, to, action } of barsIn(person, width, bestOf)) {
    pen.fillStyle = colors.lane;
    pen.fillRect(from, y + 3, Math.max(to - from, 1) + 0.5, PERSON_HEIGHT - 6); // avoids gaps between rows
    if (!action || person.open) continue;
    fillBar(pen, colorName(action.column), from, to, y + 3, PERSON_HEIGHT - 6, action.score);
    const run = runs.at(-1);
    if (run && run.column === action.column && from - run.to < 1) run.to = to;
    else runs.push({ column: action.column, from, to });
  }
  for (const run of runs) writeInRun(pen, run, y, width);
}
function writeInRun(pen, { column, from, to }, y, width) {
  const start = Math.max(from, gutter()) + 5, room = Math.min(to, width) - start - 4;
  if (room < 34) return;
  pen.font = "12px system-ui, sans-serif";
  const text = fit(pen, shortName(column), room);
  pen.lineWidth = 3;
  pen.lineJoin = "round";
  pen.strokeStyle = colors.lane;
  pen.strokeText(text, start, y + PERSON_HEIGHT / 2 + 1);
  pen.fillStyle = colors.ink;
  pen.fillText(text, start, y + PERSON_HEIGHT / 2 + 1);
}
function drawAction(pen, { person, column }, y, width) {
  pen.fillStyle = colors.line;
  pen.fillRect(gutter(), y + ACTION_HEIGHT - 1, width, 1);
  const pick = (row) => ({ column, score: scoreOf(row, column) });
  for (const { from, to, action } of barsIn(person, width, pick))
    if (action.score) fillBar(pen, colorName(column), from, to, y + 2, ACTION_HEIGHT - 3, action.score);
}
/* Draw a bar from the lower edge; height and opacity show the score. */
function fillBar(pen, color, from, to, y, height, score) {
  const high = Math.max(2, height * Math.min(score, 1)), gap = to - from > 5 ? 1 : 0;
  pen.fillStyle = colors[color];
  pen.globalAlpha = 0.45 + 0.55 * Math.min(score, 1);
  pen.fillRect(from, y + height - high, Math.max(to - from - gap, 1), high);
  pen.globalAlpha = 1;
}

/* Show the names of the visible rows, as elements for screen readers. */
function showNames(seen, top, left, chosen) {
  names.style.width = `${left}px`;
  names.replaceChildren(...seen.map((lane) => {
    const { person, column } = lane, isPerson = column === null;
    const text = isPerson ? personName(person) : data.actions[column].name;
    const element = make("div", { class: isPerson ? "name person" : "name action", role: "option", title: text,
      id: `lane-${person.id}-${isPerson ? "all" : column}`, "data-person": person.id, "aria-posinset": lanes.indexOf(lane) + 1,
      "aria-setsize": lanes.length, "aria-selected": String(isPerson && person === chosen) });
    if (isPerson) {
      element.setAttribute("aria-expanded", String(person.open));
      element.append(make("span", { class: "arrow", "aria-hidden": "true" }, person.open ? "▾" : "▸"), text);
      element.append(make("span", { class: "count" }, `${clockTime(person.from)}–${clockTime(person.to)}`));
    } else {
      element.setAttribute("data-action", data.actions[column].id);
      element.append(make("span", { class: `dot ${colorName(column)}` }), make("span", { class: "text" }, shortName(column)));
      element.append(make("span", { class: "count" }, person.best.get(column).toFixed(2)));
    }
    element.style.transform = `translateY(${lane.y - top}px)`;
    element.style.height = `${lane.height}px`;
    return element;
  }));
  const active = chosen && byId(`lane-${chosen.id}-all`);
  if (active) scroller.setAttribute("aria-activedescendant", active.id);
  else scroller.removeAttribute("aria-activedescendant");
}
function movePlayhead() {
  const x = xOf(now);
  playhead.hidden = x < gutter() - 1 || x > scroller.clientWidth;
  playhead.style.transform = `translateX(${x}px)`;
}
/* During playback, scroll to the next page when the playhead leaves the view. */
function followPlayhead() {
  const x = xOf(now);
  if (!video.paused && (x < gutter() || x > scroller.clientWidth - 12)) scroller.scrollLeft = now * scale() - laneWidth() * 0.05;
  movePlayhead();
}
function revealPerson(person) {
  const lane = lanes.find((entry) => entry.person === person);
  if (!lane) return;
  const end = lanes.findLast((entry) => entry.person === person);
  const low = lane.y - RULER, high = Math.min(end.y + end.height, low + scroller.clientHeight) - scroller.clientHeight;
  if (scroller.scrollTop > low) scroller.scrollTop = low;
  else if (scroller.scrollTop < high) scroller.scrollTop = Math.min(high, low);
}

/* Return what is at a point of the sheet: lane, time, and the row of the person with the score of the action. */
function hitTimeline(event) {
  const place = byId("sheet").getBoundingClientRect();
  const x = event.clientX - place.left, y = event.clientY - place.top;
  const time = timeAt(x), lane = y < RULER ? null : lanes.find((l) => y + scroller.scrollTop >= l.y && y + scroller.scrollTop < l.y + l.height);
  if (!lane || x < gutter()) return { lane, time, inLane: x >= gutter(), row: null };
  const index = nearest(lane.person, time), row = index < 0 ? null : lane.person.rows[index];
  const best = row === null ? null : lane.column === null ? bestOf(row) : { column: lane.column, score: scoreOf(row, lane.column) };
  return { lane, time, inLane: true, row, best: best?.score ? best : null };
}
function tipOver(event) {
  const { row, best } = hitTimeline(event), tip = byId("tip");
  tip.hidden = !best;
  if (!best) return;
  tip.textContent = `${data.actions[best.column].name} ${best.score.toFixed(2)}, ${clockTime(timeOf(row), 2)}`;
  tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}
