/* The clip around a keyframe, looped on a canvas. Frames come as JPEG; clips of the next keyframes are fetched early. */
import { getClip } from "./api.js";
import { byId, freshContext } from "./dom.js";

const HEIGHTS = [240, 360, 480, 720, 1080];
const MAX_BYTES = 96e6; // of JPEGs that are kept
const clips = new Map(); // key -> promise of {frames, bytes}, least recently used first
const pictures = new Map(); // key -> promise of bitmaps; of few clips, because they are large
const canvas = byId("picture"), stage = byId("stage");
let kept = 0, height = 480, current = null, started = 0, drawn = null, listener = () => {};
export const player = { playing: !matchMedia("(prefers-reduced-motion: reduce)").matches, time: 0, frozen: false, problem: "" };

export function startPlayer(onFrame) {
  listener = onFrame;
  requestAnimationFrame(tick);
}
/* Choose the smallest height that fills the stage. */
export function chooseHeight(doc) {
  const wanted = Math.min(stage.clientHeight * (devicePixelRatio || 1), doc.height);
  height = HEIGHTS.find((value) => value >= wanted - 1) ?? HEIGHTS.at(-1);
}

const keyOf = (doc, second) => `${height}/${second}/${doc.id}`;
function clipOf(doc, second) {
  const key = keyOf(doc, second);
  let clip = clips.get(key);
  if (clip) clips.delete(key); // and append it again
  else {
    clip = getClip(doc.id, second, height);
    clip.then(({ bytes }) => { kept += bytes; evict(); }, () => clips.delete(key));
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
function picturesOf(doc, second) {
  const key = keyOf(doc, second);
  if (!pictures.has(key)) {
    const decode = async ({ time, jpeg }) => ({ time, bitmap: await createImageBitmap(jpeg) });
    const found = clipOf(doc, second).then(({ frames }) => Promise.all(frames.map(decode)));
    found.catch(() => pictures.delete(key));
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
  current = { key, frames: null };
  player.time = 0;
  const near = [index + 1, index - 1].filter((k) => doc.keyframes[k] !== undefined).map((k) => doc.keyframes[k]);
  release(new Set([key, ...near.map((s) => keyOf(doc, s))]));
  try {
    const frames = await picturesOf(doc, second);
    if (current.key !== key) return;
    player.problem = frames.length ? "" : "There are no frames of the video around this keyframe.";
    current.frames = frames;
  } catch (error) {
    if (current.key !== key) return;
    player.problem = `No picture: ${error.message}.`;
    current.frames = [];
    setTimeout(() => { if (current?.key === key) { current = null; showKeyframe(doc, index); } }, 3000);
  }
  started = performance.now();
  drawn = null;
  for (const s of near) picturesOf(doc, s).catch(() => {});
  for (const s of doc.keyframes.slice(index + 2, index + 4)) clipOf(doc, s).catch(() => {});
}
export const isLoading = () => current !== null && current.frames === null;
export function redraw() { drawn = null; }
export function setPlaying(playing) {
  player.playing = playing;
  started = performance.now();
}

/* Draw the frame of this moment. The loop starts at the keyframe; without playing, the keyframe is shown. */
function tick() {
  requestAnimationFrame(tick);
  const frames = current?.frames;
  if (!frames) return;
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
/* Return left, top, width and height of the picture in the stage, in CSS pixels. */
export function pictureRect() {
  const [width, high] = [stage.clientWidth, stage.clientHeight], scale = Math.min(width / aspect, high);
  return [(width - scale * aspect) / 2, (high - scale) / 2, scale * aspect, scale];
}
