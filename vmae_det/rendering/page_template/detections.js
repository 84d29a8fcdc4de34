/* Detections of the page: rows (a person at a keyframe), people, filters and export. */
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

function decode(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
const numbers = (name, Kind) => new Kind(decode(data[name]).buffer);
const keyframes = { timestamp: numbers("timestamp", Float64Array), shownAt: numbers("shownAt", Float64Array),
  seekTo: numbers("seekTo", Float64Array) };
const rows = { keyframe: numbers("keyframe", Uint32Array), track: numbers("track", Uint32Array),
  box: numbers("boxes", Int32Array), personScore: numbers("personScores", Float32Array),
  column: numbers("columns", Uint16Array), score: numbers("scores", Float32Array), begin: null };
rows.begin = new Uint32Array(rows.track.length + 1);
numbers("counts", Uint16Array).forEach((count, i) => { rows.begin[i + 1] = rows.begin[i] + count; });

/* Filters: minimum score, and selected columns of the label map. */
const filter = { score: Math.max(data.threshold, data.floor), wanted: new Uint8Array(data.actions.length).fill(1) };

const timeOf = (row) => keyframes.shownAt[rows.keyframe[row]];
const boxOf = (row) => [0, 1, 2, 3].map((k) => rows.box[4 * row + k] / 1e6);

/* Return the score of an action in a row; 0 if it does not match the filters. */
function scoreOf(row, column) {
  for (let i = rows.begin[row]; i < rows.begin[row + 1]; i++)
    if (rows.column[i] === column) return passes(i) ? rows.score[i] : 0;
  return 0;
}
function passes(i) { return rows.score[i] >= filter.score && filter.wanted[rows.column[i]] === 1; }

/* Return the actions of a row that match the filters, by descending score. */
function actionsOf(row) {
  const found = [];
  for (let i = rows.begin[row]; i < rows.begin[row + 1]; i++)
    if (passes(i)) found.push({ column: rows.column[i], score: rows.score[i] });
  return found.sort((a, b) => b.score - a.score);
}

/* Return the action with the highest score, or null. */
function bestOf(row) {
  let best = -1;
  for (let i = rows.begin[row]; i < rows.begin[row + 1]; i++)
    if (passes(i) && (best < 0 || rows.score[i] > rows.score[best])) best = i;
  return best < 0 ? null : { column: rows.column[best], score: rows.score[best] };
}

/* People in order of appearance. Each has its rows in order of time, and the maximum and the sum of the scores of
   each action. */
const people = (() => {
  const byTrack = new Map();
  for (let row = 0; row < rows.track.length; row++) {
    const id = rows.track[row];
    if (!byTrack.has(id)) byTrack.set(id, { id, rows: [], best: new Map(), sum: new Map(), open: false });
    const person = byTrack.get(id);
    person.rows.push(row);
    for (let i = rows.begin[row]; i < rows.begin[row + 1]; i++) {
      const column = rows.column[i];
      person.best.set(column, Math.max(person.best.get(column) ?? 0, rows.score[i]));
      person.sum.set(column, (person.sum.get(column) ?? 0) + rows.score[i]);
    }
  }
  for (const person of byTrack.values()) {
    person.from = spanOf(person, 0)[0];
    person.to = spanOf(person, person.rows.length - 1)[1];
  }
  return [...byTrack.values()].sort((a, b) => a.from - b.from || a.id - b.id);
})();

/* Return the columns of a person's actions that match the filters, by descending sum of scores. */
function columnsOf(person) {
  return [...person.best.keys()].filter((c) => filter.wanted[c] && person.best.get(c) >= filter.score)
    .sort((a, b) => person.sum.get(b) - person.sum.get(a));
}

/* Return the index of a person's first row at or after a time. */
function firstAfter(person, time) {
  let low = 0, high = person.rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (timeOf(person.rows[middle]) < time) low = middle + 1; else high = middle;
  }
  return low;
}

/* Return the time span in which a row of a person is shown: up to halfway to the previous and the next row. */
function spanOf(person, index) {
  const at = timeOf(person.rows[index]);
  const before = index ? at - timeOf(person.rows[index - 1]) : Infinity;
  const after = index + 1 < person.rows.length ? timeOf(person.rows[index + 1]) - at : Infinity;
  return [before > data.gap ? Math.max(at - data.reach, 0) : at - before / 2,
    after > data.gap ? Math.min(at + data.reach, data.duration) : at + after / 2];
}

/* Return the index of a person's row nearest to a time; -1 if the person is not visible. */
function nearest(person, time) {
  const after = firstAfter(person, time);
  for (const index of [after - 1, after]) {
    if (index < 0 || index >= person.rows.length) continue;
    const [from, to] = spanOf(person, index);
    if (from <= time && time <= to) return index;
  }
  return -1;
}

/* Return the box at a time, interpolated between keyframes; without a next keyframe, the box of the nearest one. */
function boxAt(person, time, index) {
  const after = Math.min(firstAfter(person, time), person.rows.length - 1), before = Math.max(after - 1, 0);
  const [t0, t1] = [timeOf(person.rows[before]), timeOf(person.rows[after])];
  if (t1 === t0 || t1 - t0 > data.gap) return boxOf(person.rows[index]);
  const share = Math.min(Math.max((time - t0) / (t1 - t0), 0), 1);
  const [a, b] = [boxOf(person.rows[before]), boxOf(person.rows[after])];
  return a.map((value, k) => value + share * (b[k] - value));
}

/* People by segment of the video, so that a frame does not search all people. */
const SEGMENT = Math.max(1, data.duration / 4096);
const segments = Array.from({ length: Math.floor(data.duration / SEGMENT) + 1 }, () => []);
for (const person of people)
  for (let k = Math.floor(person.from / SEGMENT); k <= Math.floor(person.to / SEGMENT); k++) segments[k]?.push(person);

/* Return the people who are visible at a time: person, row and box. */
function presentAt(time) {
  const found = [];
  for (const person of segments[Math.floor(time / SEGMENT)] ?? []) {
    const index = nearest(person, time);
    if (index >= 0) found.push({ person, row: person.rows[index], box: boxAt(person, time, index) });
  }
  return found;
}

/* Return the indices of the keyframes at which an action of the person starts, ascending. */
function beginningsOf(person) {
  const found = [];
  for (let i = 0; i < person.rows.length; i++) {
    const before = i ? new Set(actionsOf(person.rows[i - 1]).map((action) => action.column)) : new Set();
    if (actionsOf(person.rows[i]).some((action) => !before.has(action.column))) found.push(rows.keyframe[person.rows[i]]);
  }
  return found;
}

/* Text */
const personName = (person) => (data.wholeFrame ? "Whole frame" : `Person ${person.id}`);
function clockTime(seconds, digits = 0) {
  const whole = Math.max(0, Math.floor(seconds * 10 ** digits + 1e-6) / 10 ** digits);
  const minutes = Math.floor(whole / 60) % 60, hours = Math.floor(whole / 3600);
  const rest = (whole % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}
/* Names in AVA contain examples, as in "talk to (e.g., self, a person)". They do not fit small spaces. */
const shortName = (column) => data.actions[column].name.replace(/\([^)]*\)/g, " ").replace(/\s+/g, " ").trim() || data.actions[column].name;

/* Export of the rows that match the filters */
const round = (value, digits) => Number(value.toFixed(digits));
function csvField(text) { return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; }
function avaTime(seconds) {
  const value = round(seconds, 3);
  return Number.isInteger(value) ? String(value).padStart(4, "0") : String(value);
}
function toCsv() {
  const lines = [], name = csvField(data.video);
  for (let row = 0; row < rows.track.length; row++) {
    const start = [name, avaTime(keyframes.timestamp[rows.keyframe[row]]), ...boxOf(row)].join(",");
    for (let i = rows.begin[row]; i < rows.begin[row + 1]; i++)
      if (passes(i)) lines.push(`${start},${data.actions[rows.column[i]].id},${Number(rows.score[i].toPrecision(9))}\n`);
  }
  return lines;
}
function toJson() {
  const found = [];
  for (let row = 0; row < rows.track.length; row++) {
    const actions = actionsOf(row).map(({ column, score }) =>
      ({ id: data.actions[column].id, name: data.actions[column].name, score: round(score, 6) }));
    if (!actions.length) continue;
    const person_score = Number.isNaN(rows.personScore[row]) ? null : round(rows.personScore[row], 4);
    found.push({ timestamp: keyframes.timestamp[rows.keyframe[row]], box: boxOf(row), track: rows.track[row], person_score, actions });
  }
  return JSON.stringify({ video: data.title, video_start: data.videoStart, threshold: filter.score, people: found }, null, 1) + "\n";
}
