/* Connects the parts of the page: selection of a person, keyboard, mouse and resizing. */
let choice = people[0] ?? null;

function refresh() {
  drawOverlay(choice);
  showNow(choice, choose);
  followPlayhead();
  byId("clock").textContent = clockTime(now, 2);
  if (document.activeElement !== byId("seek") || !video.seeking) byId("seek").value = now;
  byId("seek").setAttribute("aria-valuetext", clockTime(now, 1));
}
function filtersChanged() {
  layOutTimeline();
  drawTimeline();
  showCounts();
  refresh();
}
function choose(person) {
  choice = person;
  drawTimeline();
  refresh();
}
function toggleOpen(person) {
  person.open = !person.open;
  layOutTimeline();
  drawTimeline();
}
const say = (text) => { byId("spoken").textContent = text; };

/* Select the previous or next person on the timeline. */
function stepPerson(direction) {
  const shown = lanes.filter((lane) => lane.column === null).map((lane) => lane.person);
  if (!shown.length) return;
  const at = shown.indexOf(choice);
  choose(shown[at < 0 ? 0 : Math.min(Math.max(at + direction, 0), shown.length - 1)]);
  revealPerson(choice);
  drawTimeline();
  say(`${personName(choice)}, ${clockTime(choice.from)} to ${clockTime(choice.to)}, ${columnsOf(choice).map(shortName).join(", ")}`);
}
/* Go to the previous or next start of an action of the selected person. */
function stepBar(direction) {
  if (!choice) return;
  const margin = data.period / 2, starts = beginningsOf(choice);
  const isBeyond = (k) => direction * (keyframes.shownAt[k] - position()) > margin;
  const found = direction > 0 ? starts.find(isBeyond) : starts.findLast(isBeyond);
  if (found === undefined) { say("no more actions of this person"); return; }
  video.pause();
  seekKeyframe(found);
  const row = choice.rows.find((r) => rows.keyframe[r] === found);
  say(`${clockTime(keyframes.shownAt[found], 1)}: ${actionsOf(row).map(({ column, score }) => `${shortName(column)} ${score.toFixed(2)}`).join(", ")}`);
}
function setScore(value) {
  byId("score").value = value;
  byId("score").oninput();
}
function toggleMute() {
  video.muted = !video.muted;
  byId("mute").setAttribute("aria-pressed", String(video.muted));
}
function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen(); else byId("player").requestFullscreen?.();
}

const KEYS = [
  [[" ", "k"], "space, k", "play or pause", togglePlay],
  [["ArrowLeft"], "←", "previous keyframe", () => stepKeyframe(-1)],
  [["ArrowRight"], "→", "next keyframe", () => stepKeyframe(1)],
  [[","], ",", "previous frame", () => stepFrame(-1)],
  [["."], ".", "next frame", () => stepFrame(1)],
  [["j"], "j", "back 10 seconds", () => seek(position() - 10)],
  [["l"], "l", "forward 10 seconds", () => seek(position() + 10)],
  [["Home"], "Home", "go to the start", () => seek(0)],
  [["End"], "End", "go to the end", () => seek(data.duration)],
  [["ArrowUp"], "↑", "previous person", () => stepPerson(-1)],
  [["ArrowDown"], "↓", "next person", () => stepPerson(1)],
  [["n"], "n", "next action of this person", () => stepBar(1)],
  [["p"], "p", "previous action of this person", () => stepBar(-1)],
  [["Enter"], "Enter", "expand or collapse the actions of this person", () => choice && toggleOpen(choice)],
  [["["], "[", "decrease the minimum score", () => setScore(filter.score - 0.05)],
  [["]"], "]", "increase the minimum score", () => setScore(filter.score + 0.05)],
  [["/"], "/", "search actions", () => { byId("filters").open = true; byId("search").focus(); }],
  [["+", "="], "+", "zoom in", () => setZoom(zoom * 1.5)],
  [["-"], "−", "zoom out", () => setZoom(zoom / 1.5)],
  [["0"], "0", "show the whole video", () => setZoom(1)],
  [["m"], "m", "mute or unmute", toggleMute],
  [["f"], "f", "full screen", toggleFull],
  [["?"], "?", "show this help", () => byId("help").showModal()],
];
const OWN_KEYS = { // keys that an element handles itself, by kind of element
  text: /^.$|^(Arrow|Home|End|Enter)/u, range: /^(Arrow|Home|End)/u, select: /^.$|^(Arrow|Home|End|Enter)/u, button: /^( |Enter)$/u };
function keepsKey(element, key) {
  const kind = element.matches("input[type=search]") ? "text" : element.matches("input[type=range]") ? "range"
    : element.matches("select") ? "select" : element.matches("button, summary, input[type=checkbox]") ? "button" : null;
  return kind !== null && OWN_KEYS[kind].test(key);
}
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.key === "Escape" && event.target === byId("search")) byId("search").blur();
  if (keepsKey(event.target, event.key)) return;
  const found = KEYS.find(([keys]) => keys.includes(event.key.length === 1 ? event.key.toLowerCase() : event.key));
  if (!found) return;
  event.preventDefault();
  found[3]();
}

function wireTimeline() {
  scroller.onscroll = () => requestAnimationFrame(() => drawTimeline());
  scroller.onclick = (event) => {
    const { lane, time, inLane, row, best } = hitTimeline(event);
    if (lane) choose(lane.person);
    if (!inLane) { if (lane?.column === null) toggleOpen(lane.person); return; }
    if (best) seekKeyframe(rows.keyframe[row]); else seek(time);
  };
  scroller.onpointermove = tipOver;
  scroller.onpointerleave = () => { byId("tip").hidden = true; };
  byId("zoom-in").onclick = () => setZoom(zoom * 1.5);
  byId("zoom-out").onclick = () => setZoom(zoom / 1.5);
  byId("zoom-fit").onclick = () => setZoom(1);
}
function wirePlayer() {
  byId("play").onclick = togglePlay;
  byId("before").onclick = () => stepKeyframe(-1);
  byId("after").onclick = () => stepKeyframe(1);
  byId("speed").onchange = () => { video.playbackRate = Number(byId("speed").value); };
  byId("mute").onclick = toggleMute;
  byId("full").onclick = toggleFull;
  Object.assign(byId("seek"), { max: data.duration, step: data.period });
  byId("seek").value = 0;
  byId("seek").oninput = () => seek(Number(byId("seek").value) + data.period / 2);
  overlay.onclick = (event) => {
    const person = personAt(event.offsetX, event.offsetY);
    if (!person) { togglePlay(); return; }
    choose(person);
    revealPerson(person);
  };
  for (const event of ["play", "pause"]) video.addEventListener(event, () => {
    byId("play").classList.toggle("playing", !video.paused);
    byId("play").setAttribute("aria-label", video.paused ? "Play" : "Pause");
  });
}
function wireExports() {
  byId("export-csv").onclick = () => download(`${data.video}_shown.csv`, "text/csv", toCsv());
  byId("export-json").onclick = () => download(`${data.video}_shown.json`, "application/json", [toJson()]);
  byId("open-help").onclick = () => byId("help").showModal();
  byId("keys").append(...KEYS.flatMap(([, keys, what]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, what)]));
}
function resized() {
  stage.style.setProperty("--aspect", (video.videoWidth || 16) / (video.videoHeight || 9));
  layOutTimeline();
  drawTimeline();
  drawOverlay(choice);
}

byId("length").textContent = `/ ${clockTime(data.duration)}`;
document.title = `${data.title}: detected actions`;
byId("title").textContent = data.title;
const amount = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
byId("facts").textContent = [clockTime(data.duration), ...(data.wholeFrame ? [] : [amount(people.length, "person", "people")]), amount(keyframes.timestamp.length, "keyframe", "keyframes"), ...(data.origin ? [data.origin] : [])].join(" · ");
byId("filters").open = matchMedia("(min-width: 901px)").matches;
readColors();
showLegend();
buildFilters(filtersChanged);
openAtFirst();
wirePlayer();
wireTimeline();
wireExports();
document.addEventListener("keydown", onKey);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); drawTimeline(); });
video.addEventListener("loadedmetadata", resized);
new ResizeObserver(resized).observe(scroller);
new ResizeObserver(resized).observe(stage);
followFrames(refresh);
loadVideo();
filtersChanged();
