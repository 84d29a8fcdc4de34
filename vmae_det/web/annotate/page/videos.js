/* Dialogs: choose a video, go to a second, and the page of keys. */
import { getDataset } from "./api.js";
import { byId, key, make } from "./dom.js";
import { actionHelp } from "./labels.js";
import { view } from "./view.js";

const MOST = 300; // videos that are listed; the search narrows them
let chosen = 0, found = [], on = null;

export function wireDialogs(openVideo) {
  on = openVideo;
  byId("video-search").oninput = () => { chosen = 0; listVideos(); };
  byId("video-search").onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (step) { chosen = Math.min(Math.max(chosen + step, 0), found.length - 1); listVideos(); }
    else if (event.key === "Enter" && found[chosen]) take(found[chosen]);
    else if (event.key === "Escape") byId("videos").close();
    else return;
    event.preventDefault();
  };
  for (const button of document.querySelectorAll("dialog .close")) button.onclick = () => button.closest("dialog").close();
}
export function chooseVideo() {
  byId("video-search").value = "";
  chosen = Math.max(0, view.dataset.videos.findIndex(({ id }) => id === view.doc?.id));
  byId("videos").showModal();
  listVideos();
  getDataset().then(({ videos }) => { // of which other pages may have annotated some
    view.dataset.videos = videos;
    if (byId("videos").open) listVideos();
  }, () => {});
}
function take({ id }) {
  byId("videos").close();
  on(id);
}
function listVideos() {
  const needle = byId("video-search").value.trim().toLowerCase();
  found = view.dataset.videos.filter(({ id }) => id.toLowerCase().includes(needle));
  const first = Math.max(0, Math.min(chosen - MOST / 2, found.length - MOST));
  byId("video-list").replaceChildren(...found.slice(first, first + MOST).map((video, k) => {
    const isChosen = first + k === chosen;
    const done = make("span", { class: "count" }, video.error ? "not readable" : `${video.looked_at} of ${video.keyframes ?? "…"}`);
    const item = make("li", { role: "option", id: `video-${first + k}`, "aria-selected": String(isChosen), title: video.error ?? video.id },
      make("span", { class: video.keyframes !== null && video.looked_at >= video.keyframes && !video.error ? "mark done" : "mark", "aria-hidden": "true" }),
      make("span", { class: "text" }, video.id), done);
    item.onclick = () => take(video);
    return item;
  }));
  if (!found.length) byId("video-list").append(make("li", { class: "soft" }, "no video has this name"));
  byId("video-search").setAttribute("aria-activedescendant", `video-${chosen}`);
  byId(`video-${chosen}`)?.scrollIntoView({ block: "nearest" });
}

/* Ask for a second; resolves to a number, or null. */
export function askSecond(current) {
  const dialog = byId("goto"), field = byId("goto-second");
  field.value = current;
  dialog.showModal();
  field.select();
  return new Promise((resolve) => {
    field.onkeydown = (event) => { if (event.key === "Enter") { event.preventDefault(); dialog.close("ok"); } };
    dialog.onclose = () => {
      const value = dialog.returnValue === "ok" && field.value.trim() !== "" ? Number(field.value) : NaN;
      dialog.returnValue = "";
      resolve(Number.isFinite(value) ? value : null);
    };
  });
}

/* The page of keys, from the tables that handle them: [[section, rows]]. */
export function buildHelp(sections) {
  const row = ({ shown, what }) => make("div", {}, make("dt", {}, key(shown)), make("dd", {}, what));
  byId("keys").replaceChildren(...sections.map(([title, entries]) =>
    make("section", {}, make("h3", {}, title), make("dl", {}, ...entries.map(row)))));
  const labels = actionHelp().map(([shown, what]) => row({ shown, what }));
  byId("keys").append(make("section", {}, make("h3", {}, "Labels"), make("dl", {}, ...labels)));
}
