/* The clip around a keyframe, looped on a canvas. Frames come as JPEG; clips of the next keyframes are fetched early. */
import { getClip } from "./api.js";
import { byId, freshContext } from "./dom.js";

const HEIGHTS = [240, 360, 480, 720, 1080];
const MAX_BYTES = 96e6; // of JPEGs that are kept
const clips = new Map(); // key -> promise of {frames, bytes}, least recently used first
const loading = new Map(); // key -> AbortController, of clips that are not complete
const pictures = new Map(); // key -> promise of bitmaps; of few clips, because they are large
const canvas = byId("picture"), stage = byId("stage");
const PAUSE = 60; // ms at a keyframe before its clip is fetched, so that passing through a video fetches nothing
const PATIENCE = 150; // ms for which the picture of the keyframe before stays
let kept = 0, height = 480, current = null, started = 0, drawn = null, listener = () => {};
export const player = { playing: !matchMedia("(prefers-reduced-motion: reduce)").matches, time: 0, frozen: false, problem: "" };

export function startPlayer(onFrame) {
  listener = onFrame;
  requestAnimationFrame(tick);
}
/* Choose the smallest height that fills the stage. */
export function chooseHeight(doc) {
  const wanted = Math.min(stage.clientHeight * zoom.scale * (devicePixelRatio || 1), doc.height);
  height = HEIGHTS.find((value) => value >= wanted - 1) ?? HEIGHTS.at(-1);
}

const keyOf = (doc, second) => `${height}/${second}/${doc.id}`;
function clipOf(doc, second) {
  const key = keyOf(doc, second);
  let clip = clips.get(key);
  if (clip) clips.delete(key); // and append it again
  else {
    const controller = new AbortController();
    loading.set(key, controller);
    const mine = clip = getClip(doc.id, second, height, controller.signal);
    clip.then(({ bytes }) => { kept += bytes; evict(); }, () => { if (clips.get(key) === mine) clips.delete(key); })
      .finally(() => { if (loading.get(key) === controller) loading.delete(key); });
  }
  clips.set(key, clip);
  return clip;
}
function evict() {
  for (const [key, clip] of clips) {
    if (kept <= MAX_BYTES) return;
    clips.delete(key);
    clip.then(({ bytes }) => { kept -= bytes; }, () => {});
  }
}
const decode = ({ frames }) => Promise.all(frames.map(async ({ time, jpeg }) => ({ time, bitmap: await createImageBitmap(jpeg) })));
function picturesOf(doc, second) {
  const key = keyOf(doc, second);
  if (!pictures.has(key)) {
    const found = clipOf(doc, second).then(decode);
    found.catch(() => { if (pictures.get(key) === found) pictures.delete(key); });
    pictures.set(key, found);
  }
  return pictures.get(key);
}
function release(wanted) {
  for (const [key, found] of pictures) {
    if (wanted.has(key)) continue;
    pictures.delete(key);
    found.then((frames) => frames.forEach(({ bitmap }) => bitmap.close()), () => {});
  }
}

/* Show a keyframe; then fetch the clips that are likely next. */
export async function showKeyframe(doc, index) {
  const second = doc.keyframes[index], key = keyOf(doc, second);
  if (current?.key === key) return;
  const mine = { key, frames: null, since: performance.now(), still: new AbortController() };
  current?.still.abort();
  current = mine;
  player.time = 0;
  const near = [index + 1, index - 1].filter((k) => doc.keyframes[k] !== undefined).map((k) => doc.keyframes[k]);
  release(new Set([key, ...near.map((s) => keyOf(doc, s))]));
  for (const [other, controller] of loading) if (other !== key) { controller.abort(); clips.delete(other); }
  try {
    if (!clips.has(key)) await showStill(doc, second, mine);
    if (current !== mine) return;
    const frames = await picturesOf(doc, second);
    if (current !== mine) return;
    player.problem = frames.length ? "" : "There are no frames of the video around this keyframe.";
    current.frames = frames;
  } catch (error) {
    if (current !== mine) return;
    player.problem = `No picture: ${error.message}.`;
    current.frames = [];
    setTimeout(() => { if (current === mine) { current = null; showKeyframe(doc, index); } }, 3000);
  }
  started = performance.now();
  drawn = null;
  prefetch(doc, near, doc.keyframes.slice(index + 2, index + 4), mine);
}
/* Show the frame of the keyframe alone, which takes less time than the clip. */
async function showStill(doc, second, mine) {
  await new Promise((resolve) => setTimeout(resolve, PAUSE));
  if (current !== mine) return;
  try {
    mine.frames = await decode(await getClip(doc.id, second, height, mine.still.signal, 0));
    drawn = null;
  } catch { /* the clip says why */ }
}
/* One by one, because browsers open few connections to a host, and edits need one. */
async function prefetch(doc, near, later, mine) {
  for (const s of near) if (current === mine) await picturesOf(doc, s).catch(() => {});
  for (const s of later) if (current === mine) await clipOf(doc, s).catch(() => {});
}
export const isLoading = () => current !== null && current.frames === null;
/* The picture of the keyframe before must not stay under the boxes of this one. */
function blank() {
  if (!current || drawn === "nothing" || performance.now() - current.since < PATIENCE) return;
  drawn = "nothing";
  freshContext(canvas, stage.clientWidth, stage.clientHeight);
  listener();
}
export function redraw() { drawn = null; }
export function setPlaying(playing) {
  player.playing = playing;
  started = performance.now();
}

/* Draw the frame of this moment. The loop starts at the keyframe; without playing, the keyframe is shown. */
function tick() {
  requestAnimationFrame(tick);
  const frames = current?.frames;
  if (!frames) { blank(); return; }
  const playing = player.playing && !player.frozen && frames.length > 1;
  let time = 0;
  if (playing) {
    const [first, last] = [frames[0].time, frames.at(-1).time], step = (last - first) / (frames.length - 1);
    const length = last - first + step;
    time = first + (((performance.now() - started) / 1000 - first) % length);
  }
  const frame = frames.findLast((f) => f.time <= time + 0.02) ?? frames[0];
  const shown = playing || !frames.length ? frame : frames.reduce((a, b) => (Math.abs(b.time) < Math.abs(a.time) ? b : a));
  if (drawn === (shown ?? "nothing")) return;
  drawn = shown ?? "nothing";
  player.time = playing ? shown.time : 0;
  const pen = freshContext(canvas, stage.clientWidth, stage.clientHeight);
  if (shown) {
    const [left, top, width, high] = pictureRect();
    pen.imageSmoothingQuality = "high";
    pen.drawImage(shown.bitmap, left, top, width, high);
  }
  listener();
}

let aspect = 16 / 9;
export function setAspect(doc) {
  aspect = doc.width / doc.height || 16 / 9;
  stage.style.setProperty("--aspect", aspect);
}
const ZOOMS = [1, 1.5, 2, 3, 4, 6];
const zoom = { scale: 1, center: [0.5, 0.5] };
/* Zoom in (1) or out (-1); 0 keeps the scale. `center`: what to look at, as fractions of the frame, or null. */
export function setZoom(direction, center) {
  const at = ZOOMS.indexOf(zoom.scale) + direction;
  zoom.scale = ZOOMS[Math.min(Math.max(at, 0), ZOOMS.length - 1)];
  if (center) zoom.center = center;
  redraw();
}
/* Return left, top, width and height of the picture in the stage, in CSS pixels. */
export function pictureRect() {
  const [width, high] = [stage.clientWidth, stage.clientHeight], size = zoom.scale * Math.min(width / aspect, high);
  const place = (room, length, share) => // centered if it fits, and without a gap at the edges otherwise
    length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, room / 2 - share * length));
  return [place(width, size * aspect, zoom.center[0]), place(high, size, zoom.center[1]), size * aspect, size];
}
