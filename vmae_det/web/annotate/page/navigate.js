/* From keyframe to keyframe, from video to video, and the events of the video that is open. */
import { openEvents } from "./api.js";
import { byId, secondText } from "./dom.js";
import { notify, say } from "./messages.js";
import { chooseHeight, player, setAspect, setZoom, showKeyframe } from "./player.js";
import { heard, openDocument, reload, retryNow } from "./store.js";
import { reveal } from "./timeline.js";
import { refresh, second, selectable, selectedBox, view } from "./view.js";

const ADDRESS_PAUSE = 300; // ms, because browsers limit changes of the address
let opening = 0, addressing = null, events = null; // events: {source, video, lost}

/* Go to a keyframe, within the video. */
export function go(index) {
  const last = view.doc.keyframes.length - 1, wanted = Math.min(Math.max(index, 0), last);
  if (index === last + 1) notify("This is the last keyframe. u: next not looked at, ]: next video.");
  player.frozen = false;
  view.index = wanted;
  const arrived = second();
  showKeyframe(view.doc, wanted).then(refresh);
  if (!view.mode && !selectable().includes(view.person)) view.person = selectable()[0] ?? null;
  clearTimeout(addressing);
  addressing = setTimeout(() => history.replaceState(null, "", `#${encodeURIComponent(view.doc.id)},${arrived}`), ADDRESS_PAUSE);
  lookAt(0);
  say(`${secondText(arrived)}, ${view.doc.at(arrived).size} people${view.doc.looked(arrived) ? ", looked at" : ""}`);
  reveal();
  refresh();
}
/* Zoom in (1), out (-1) or not (0), on the selected box. */
export function lookAt(direction) {
  const box = view.mode?.box ?? selectedBox();
  setZoom(direction, box && [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]);
}
export function leaveMode() {
  view.mode = null;
  player.frozen = false;
}

/* Open a video: at a second, or at the first keyframe that was not looked at. Select a person, if it is there. */
export async function openVideo(id, at = null, person = null) {
  const turn = ++opening;
  let doc;
  try {
    doc = await openDocument(id);
  } catch (error) {
    notify(`${id} does not open: ${error.message}.`);
    return;
  }
  if (turn !== opening) return;
  if (!doc.keyframes.length) { notify(`${id} has no keyframes${doc.error ? `: ${doc.error}` : ""}.`); return; }
  leaveMode();
  if (view.doc !== doc) view.person = null;
  view.doc = doc;
  document.title = `${doc.id}: annotate`;
  byId("title").textContent = doc.id;
  setAspect(doc);
  chooseHeight(doc);
  const found = doc.keyframes.findIndex((s) => (at === null ? !doc.looked(s) : s >= at - 1e-6));
  connect(doc.id);
  if (doc.cell(doc.keyframes[Math.max(found, 0)], person)) view.person = person;
  go(Math.max(found, 0));
  reveal();
}

/* Events of other pages, for the video that is open and visible. */
function connect(video) {
  if (events?.video === video) return;
  events?.source.close();
  const source = openEvents(video), mine = { source, video, lost: false };
  events = mine;
  source.onmessage = (event) => heard(JSON.parse(event.data));
  source.onerror = () => {
    mine.lost = true;
    if (source.readyState === EventSource.CLOSED && events === mine) {
      events = null;
      setTimeout(() => { if (!events && view.doc && !document.hidden) connect(view.doc.id); }, 3000);
    }
  };
  source.onopen = () => {
    if (mine.lost) reload(video).catch(() => {});
    mine.lost = false;
    retryNow();
  };
}
/* Browsers allow few connections to a host: a page that is not visible has none open. */
export function visibilityChanged() {
  if (document.hidden) { events?.source.close(); events = null; }
  else if (view.doc && !events) { connect(view.doc.id); reload(view.doc.id).catch(() => {}); }
}
