/* Video player and overlay. `now` is the time of the visible frame, in seconds from frame 0. */
const video = byId("video"), overlay = byId("overlay"), stage = byId("stage");
let now = 0, target = null;

/* Colors on the video, in both color schemes of the page: Okabe and Ito's, which color-blind people can distinguish. */
const ON_VIDEO = { PERSON_MOVEMENT: "#56b4e9", OBJECT_MANIPULATION: "#f0e442", PERSON_INTERACTION: "#d55e00" };
const onVideo = (column) => ON_VIDEO[data.actions[column].kind] ?? "#c8c8c8";

function loadVideo() {
  video.onerror = () => {
    byId("trouble").textContent = "This browser cannot play the video. The timeline and the export still work.";
    byId("trouble").hidden = false;
  };
  const content = byId("content");
  video.src = data.address || URL.createObjectURL(new Blob([decode(content.textContent)], { type: data.mediaType }));
  content.remove();
}

/* Update `now` and call `show` for every presented frame. */
function followFrames(show) {
  const present = (time) => { now = time - data.mediaStart; target = video.seeking ? target : null; show(); };
  if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) {
    const follow = (_, frame) => { present(frame.mediaTime); video.requestVideoFrameCallback(follow); };
    video.requestVideoFrameCallback(follow);
  } else {
    // Without frame callbacks, assume a constant frame rate.
    const begin = () => Math.floor((video.currentTime - data.mediaStart) / data.period + 0.01) * data.period + data.mediaStart;
    const follow = () => { present(begin()); if (!video.paused) requestAnimationFrame(follow); };
    for (const event of ["play", "seeked", "loadeddata"]) video.addEventListener(event, follow);
  }
}

/* Return the start of the frame that is visible or being sought, so that repeated key presses add up. */
function position() { return target === null ? now : target - data.period / 2; }
function seek(time) {
  target = Math.min(Math.max(time, 0), data.duration - data.period / 2);
  video.currentTime = target + data.mediaStart;
}
function seekKeyframe(k) { seek(keyframes.seekTo[k]); }
function stepKeyframe(direction) {
  const margin = data.period / 2, times = keyframes.shownAt;
  const after = times.findIndex((time) => time > position() + margin);
  const before = times.findLastIndex((time) => time < position() - margin);
  const found = direction > 0 ? after : before;
  if (found >= 0) seekKeyframe(found);
}
function stepFrame(direction) {
  video.pause();
  seek(position() + (direction + 0.5) * data.period);
}
function togglePlay() { if (video.paused) video.play().catch(() => {}); else video.pause(); }

/* Return left, top, width and height of the picture in the stage, in CSS pixels. */
function pictureRect() {
  const width = stage.clientWidth, height = stage.clientHeight;
  const scale = Math.min(width / (video.videoWidth || 16), height / (video.videoHeight || 9));
  const [w, h] = [(video.videoWidth || 16) * scale, (video.videoHeight || 9) * scale];
  return [(width - w) / 2, (height - h) / 2, w, h];
}
/* Resize a canvas to its CSS size; return its cleared context, with CSS pixels as units. */
function freshContext(canvas, width, height) {
  const ratio = devicePixelRatio || 1, size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

const lastSlots = new Map(); // person -> index of the last position of the label, so that labels do not jump
function drawOverlay(chosen) {
  const pen = freshContext(overlay, stage.clientWidth, stage.clientHeight);
  const [left, top, width, height] = pictureRect(), small = width < 560;
  const shown = presentAt(now).map(({ person, row, box }) => ({ person, actions: actionsOf(row).slice(0, small ? 2 : 3),
    box: box.map((value) => Math.min(Math.max(value, 0), 1)).map((value, k) => (k % 2 ? top + value * height : left + value * width)) }));
  for (const { person, actions, box: [x1, y1, x2, y2] } of data.wholeFrame ? [] : shown) {
    pen.lineWidth = person === chosen ? 4 : 2;
    pen.strokeStyle = actions.length ? onVideo(actions[0].column) : "#c8c8c8";
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  pen.font = `${small ? 11 : 13}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const line = small ? 15 : 19, taken = [], heads = shown.map(({ box: [x1, y1, x2, y2] }) => [x1, y1, x2, y1 + (y2 - y1) / 4]);
  shown.forEach((item, i) => {
    const label = layOutLabel(pen, item, line, small ? 130 : 220);
    const rect = placeLabel(item, label, [left, top, width, height], heads, taken);
    taken.push(rect);
    drawLabel(pen, label, rect, line, item.person === chosen);
  });
}
function layOutLabel(pen, { person, actions }, line, room) {
  const texts = actions.map(({ column, score }) => ({ name: fit(pen, shortName(column), room), score: score.toFixed(2), value: score, color: onVideo(column) }));
  const tag = data.wholeFrame ? "" : String(person.id), tagWidth = tag ? pen.measureText(tag).width + 10 : 0;
  const body = Math.max(0, ...texts.map(({ name }) => pen.measureText(name).width + pen.measureText("0.00").width + 20));
  return { texts, tag, tagWidth, width: tagWidth + body, height: line * Math.max(texts.length, 1) };
}
function fit(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  const letters = [...text];
  while (letters.length && pen.measureText(letters.join("") + "…").width > room) letters.pop();
  return letters.join("").trimEnd() + "…";
}
function placeLabel({ person, box: [x1, y1, x2, y2] }, { width, height }, [left, top, w, h], heads, taken) {
  const under = y1 + (y2 - y1) / 4, gap = 3;
  if (data.wholeFrame) return [left + 2 * gap, top + 2 * gap, left + 2 * gap + width, top + 2 * gap + height];
  const slots = [[x1, y1 - height - gap], [x2 - width, y1 - height - gap], [x1, y2 + gap], [x2 - width, y2 + gap], [x2 + gap, y1],
    [x1 - width - gap, y1], [x2 + gap, y2 - height], [x1 - width - gap, y2 - height], [x1 + gap, y2 - height - gap], [x1 + gap, under + gap]];
  let best = null, least = Infinity;
  slots.forEach(([x, y], k) => {
    const at = [Math.min(Math.max(x, left), Math.max(left, left + w - width)), Math.min(Math.max(y, top), Math.max(top, top + h - height))];
    const rect = [...at, at[0] + width, at[1] + height];
    const cover = (others) => others.reduce((sum, other) => sum + shared(rect, other), 0) / (width * height);
    const cost = 100 * cover(taken) + 50 * cover(heads) + k * 0.2 - (lastSlots.get(person) === k ? 1.5 : 0);
    if (cost < least) { least = cost; best = { rect, k }; }
  });
  lastSlots.set(person, best.k);
  return best.rect;
}
function shared(a, b) {
  return Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
}
function drawLabel(pen, { texts, tag, tagWidth, width, height }, [x, y], line, isChosen) {
  pen.fillStyle = "rgb(18 20 24 / 0.8)";
  pen.fillRect(x, y, width, height);
  pen.fillStyle = isChosen ? "#fff" : "rgb(255 255 255 / 0.2)";
  pen.fillRect(x, y, tagWidth, height);
  pen.fillStyle = isChosen ? "#111" : "#fff";
  pen.fillText(tag, x + 5, y + height / 2);
  texts.forEach(({ name, score, value, color }, i) => {
    const top = y + i * line, start = x + tagWidth;
    pen.fillStyle = color;
    pen.fillRect(start, top, 3, line);
    pen.globalAlpha = 0.3;
    pen.fillRect(start, top, (width - tagWidth) * Math.min(value, 1), line);
    pen.globalAlpha = 1;
    pen.fillStyle = "#fff";
    pen.fillText(name, start + 8, top + line / 2 + 0.5);
    pen.fillText(score, x + width - 5 - pen.measureText(score).width, top + line / 2 + 0.5);
  });
}
/* Return the person with the smallest box at a point of the stage, in CSS pixels, or null. */
function personAt(x, y) {
  const [left, top, width, height] = pictureRect();
  const [u, v] = [(x - left) / width, (y - top) / height];
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  const hit = presentAt(now).filter(({ box: [x1, y1, x2, y2] }) => x1 <= u && u <= x2 && y1 <= v && v <= y2);
  return hit.sort((a, b) => area(a.box) - area(b.box))[0]?.person ?? null;
}
