/* Connects the parts of the page. */
import { getDataset } from "./api.js";
import { describeBoxes, drawBoxes, wireBoxes } from "./boxes.js";
import { MODES, SECTIONS, addBox, changeBox, hintOfMode, select, toggle } from "./commands.js";
import { byId, clockTime, key, make, secondText } from "./dom.js";
import { listen } from "./keys.js";
import { assignKeys, buildLabels, showFacts, showPanel } from "./labels.js";
import { notify, showMode, showSaving, wireMessages } from "./messages.js";
import { go, openVideo, visibilityChanged } from "./navigate.js";
import { chooseHeight, isLoading, player, redraw, setPlaying, startPlayer } from "./player.js";
import { restore, startStore } from "./store.js";
import { drawTimeline, readColors, wireTimeline } from "./timeline.js";
import { buildHelp, chooseVideo, wireDialogs } from "./videos.js";
import { onChange, refresh, second, view } from "./view.js";

function draw() {
  if (!view.doc) return;
  showPanel();
  showFacts();
  showMode(hintOfMode(), view.mode ? MODES[view.mode.name][1].filter(({ button }) => button).map(({ button, run }) => ({ text: button, run })) : []);
  drawBoxes();
  drawTimeline();
  const { doc, index } = view, s = second();
  byId("place").textContent = secondText(s);
  byId("place-facts").textContent = `${clockTime(s)} · keyframe ${index + 1} of ${doc.keyframes.length}`;
  Object.assign(byId("seek"), { max: doc.keyframes.length - 1, value: index });
  byId("seek").setAttribute("aria-valuetext", secondText(s));
  byId("play").setAttribute("aria-label", player.playing ? "Stop" : "Play");
  byId("play").classList.toggle("playing", player.playing);
  byId("looked").hidden = !doc.looked(s);
  byId("boxes").setAttribute("aria-label", describeBoxes() || "No boxes");
  byId("trouble").textContent = player.problem || (isLoading() ? "Loading…" : "");
  byId("trouble").classList.toggle("waiting", !player.problem);
}

/* Buttons of the commands that have one. */
function buttonsOf(commands) {
  return commands.filter(({ button }) => button).map(({ button, shown, what, run }) => {
    const element = make("button", { type: "button", title: `${what} (${shown})`, "aria-label": button, "data-key": shown }, key(shown), make("span", {}, button));
    element.onclick = run;
    return element;
  });
}
function buildToolbar() {
  const [[, moves], ...groups] = SECTIONS;
  byId("queues").append(...buttonsOf(moves));
  byId("tools").append(...groups.map(([title, commands]) =>
    make("div", { class: "group", role: "group", "aria-label": title }, ...buttonsOf(commands))).filter((group) => group.firstChild));
}
function wire() {
  onChange(draw);
  wireMessages();
  wireDialogs((id) => openVideo(id));
  wireBoxes({ select, change: changeBox, add: addBox, redraw: refresh, hold: () => { player.frozen = true; } });
  wireTimeline({ go, select });
  startPlayer(() => { if (view.doc) drawBoxes(); });
  listen(() => (view.mode ? [MODES[view.mode.name][1]] : SECTIONS.map(([, commands]) => commands)), () => !view.mode && view.doc, toggle);
  byId("choose").onclick = chooseVideo;
  byId("open-help").onclick = () => byId("help").showModal();
  byId("before").onclick = () => go(view.index - 1);
  byId("after").onclick = () => go(view.index + 1);
  byId("play").onclick = () => { setPlaying(!player.playing); refresh(); };
  byId("seek").oninput = () => go(Number(byId("seek").value));
  document.addEventListener("visibilitychange", visibilityChanged);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); refresh(); });
  const resized = () => { if (view.doc) chooseHeight(view.doc); redraw(); refresh(); };
  new ResizeObserver(resized).observe(byId("stage"));
  new ResizeObserver(resized).observe(byId("scroller"));
  addEventListener("hashchange", openAddress);
}
/* Open what the address names, `#VIDEO,SECOND,PERSON`; return whether it names something. */
function openAddress() {
  const [, id, at, person] = location.hash.match(/^#(.+?)(?:,([\d.]+))?(?:,(\d+))?$/) ?? [];
  if (!id) return false;
  openVideo(decodeURIComponent(id), at === undefined ? null : Number(at), person === undefined ? null : Number(person));
  return true;
}

/* The server opens the videos of a large set one by one: ask again until it knows the keyframes of all. */
async function completeDataset() {
  while (view.dataset.videos.some(({ keyframes, error }) => keyframes === null && !error)) {
    await new Promise((resolve) => setTimeout(resolve, 3000));
    await getDataset().then(({ videos }) => { view.dataset.videos = videos; refresh(); }, () => {});
  }
}

async function start() {
  readColors();
  wire();
  try {
    view.dataset = await getDataset();
  } catch (error) {
    notify(`The dataset does not open: ${error.message}. Trying again…`);
    setTimeout(() => location.reload(), 3000);
    return;
  }
  byId("dataset").textContent = view.dataset.name.replace(/[\\/]dataset\.ya?ml$/, "").replace(/^.*[\\/]/, "");
  byId("dataset").title = view.dataset.name;
  view.actions = new Map(view.dataset.actions.map((action) => [action.id, action]));
  const changed = () => { showSaving(); refresh(); }; // "Saved" must never stand beside an edit that is not
  startStore(view.dataset, { changed, refused: notify });
  const taken = new Set(SECTIONS.flatMap(([, commands]) => commands.flatMap(({ keys }) => keys)));
  assignKeys(view.dataset.actions, taken);
  buildLabels({ select, toggle });
  buildToolbar();
  buildHelp([...SECTIONS, ...Object.values(MODES)]);
  completeDataset();
  if (view.dataset.problem) notify(view.dataset.problem);
  const restored = await restore();
  if (restored) notify(`${restored} edits that were not saved are sent again.`);
  if (openAddress()) return;
  const { videos } = view.dataset, wanted = videos.find((v) => !v.error && v.looked_at < (v.keyframes ?? Infinity)) ?? videos.find((v) => !v.error);
  if (wanted) openVideo(wanted.id); else notify("The dataset has no video that can be read.");
}
start();
