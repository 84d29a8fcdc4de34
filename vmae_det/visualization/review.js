"use strict";
/* The page of the worst errors. All names are text: nothing of the data becomes HTML or code. */
const review = JSON.parse(document.getElementById("review").textContent);
const byId = (id) => document.getElementById(id);
const ALL = -1; // of the filter by class
const AT_KEYFRAME = 0.3; // seconds; further away, the boxes of the keyframe fade
const view = { kind: 0, column: ALL, entries: [], index: 0, playing: !matchMedia("(prefers-reduced-motion: reduce)").matches };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const nameOf = (column) => review.classes[column];
const score = (value) => value === null ? "no score" : value.toFixed(3);
const seconds = (value) => String(Number(value.toFixed(3)));
const countOf = (kind, column) => column === ALL ? kind.counts.reduce((sum, n) => sum + n, 0) : kind.counts[column];

/* ---------------------------------------------------------------- filters */

function buildFilters() {
  review.kinds.forEach((kind, number) => {
    const button = make("button", { type: "button" }, kind.title, make("b", {}, String(countOf(kind, ALL))));
    button.onclick = () => filter(number, view.column);
    byId("kinds").append(button);
  });
  byId("class").onchange = () => filter(view.kind, Number(byId("class").value));
  const head = make("tr", {}, make("th", {}, "class"), ...review.kinds.map((kind) => make("th", {}, kind.title)));
  byId("counts").append(make("thead", {}, head));
  const body = make("tbody");
  for (const column of [ALL, ...review.classes.keys()]) {
    const row = make("tr", {}, make("td", {}, column === ALL ? "all classes" : nameOf(column)));
    review.kinds.forEach((kind, number) => {
      const button = make("button", { type: "button" }, String(countOf(kind, column)));
      button.onclick = () => { filter(number, column); scrollTo(0, 0); };
      row.append(make("td", {}, button));
    });
    body.append(row);
  }
  byId("counts").append(body);
}

/* Show the errors of a kind and a class. A person with several actions is missed once. */
function filter(number, column) {
  const kind = review.kinds[number], seen = new Set();
  Object.assign(view, { kind: number, column, index: 0 });
  view.entries = review.errors.filter((error) => {
    if (error.kind !== number || (column !== ALL && error.column !== column)) return false;
    const key = kind.name === "not detected" ? JSON.stringify([error.video, error.second, error.annotatedBox]) : error;
    return !seen.has(key) && seen.add(key);
  });
  [...byId("kinds").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
  const cost = kind.points === null ? "" : ` In the error analysis of evaluate: ${kind.name}, ${kind.points.toFixed(2)} points of mAP.`;
  byId("meaning").textContent = kind.meaning + cost;
  const options = [ALL, ...review.classes.keys()].map((c) =>
    make("option", { value: c }, `${c === ALL ? "all classes" : nameOf(c)} (${countOf(kind, c)})`));
  byId("class").replaceChildren(...options);
  byId("class").value = String(column);
  const empty = !view.entries.length;
  byId("nothing").hidden = !empty;
  byId("shown").hidden = empty;
  byId("nothing").textContent = `\u2713 Nothing wrong of this kind${column === ALL ? "" : `: ${nameOf(column)}`}.`;
  byId("list").replaceChildren(...view.entries.map(thumbnail));
  byId("list").scrollLeft = 0;
  show(0);
}

/* ---------------------------------------------------------------- one error */

function show(index) {
  const video = byId("video");
  view.index = Math.max(0, Math.min(index, view.entries.length - 1));
  const error = view.entries[view.index];
  const total = countOf(review.kinds[view.kind], view.column);
  byId("position").textContent = error ? `${view.index + 1} of the ${view.entries.length} worst, ${total} in all` : "";
  byId("before").disabled = view.index === 0;
  byId("after").disabled = view.index >= view.entries.length - 1;
  video.pause();
  if (!error) {
    video.removeAttribute("src");
    return;
  }
  byId("boxes").replaceChildren(...boxesOf(error, true));
  byId("about").replaceChildren(...describe(error));
  byId("fix").replaceChildren(...remedy(error));
  trouble(error.clip.problem && `There is no clip: ${error.clip.problem}.`);
  if (error.clip.name) {
    video.src = `clips/${error.clip.name}.mp4`;
    video.poster = `clips/${error.clip.name}.jpg`;
  } else {
    video.removeAttribute("src");
    video.removeAttribute("poster");
  }
  setPlaying(view.playing);
  [...byId("list").children].forEach((item, i) => item.firstChild.setAttribute("aria-pressed", String(i === view.index)));
  const list = byId("list"), item = list.children[view.index];
  list.scrollLeft = item.offsetLeft - list.offsetLeft - (list.clientWidth - item.offsetWidth) / 2;
}

function trouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text || "";
}

/* Play the loop, or show the keyframe. */
function setPlaying(playing) {
  const video = byId("video"), error = view.entries[view.index];
  view.playing = playing;
  byId("play").textContent = !playing ? "Play" : review.annotate ? "Stop at the keyframe" : "Stop";
  if (!error?.clip.name) return;
  if (playing) video.play().catch(() => {}); // another clip was chosen, or the file is missing
  else {
    video.pause();
    if (video.readyState) seekKeyframe();
  }
}
function seekKeyframe() {
  byId("video").currentTime = view.entries[view.index].clip.at + 0.001; // at a boundary, players may show the frame before
}

/* The wrong action that has a higher score than the annotated one, and this score. */
function rivalOf(error) {
  if (!review.kinds[error.kind].rivals) return undefined;
  return error.detected.find(([column]) => !error.annotated.includes(column));
}

/* The boxes of an error: the annotated one solid, the detected one dashed. */
function boxesOf(error, withText) {
  const boxes = [];
  const add = (box, kind, text) => {
    if (!box) return;
    const [x1, y1, x2, y2] = box, element = make("div", { class: `box ${kind}` });
    Object.assign(element.style, {
      left: `${100 * x1}%`, top: `${100 * y1}%`, width: `${100 * (x2 - x1)}%`, height: `${100 * (y2 - y1)}%` });
    const side = kind === "annotated" ? (y1 > 0.07 ? "above" : "top") : (y2 < 0.93 ? "below" : "bottom");
    if (withText) element.append(make("span", { class: `${side}${x1 > 0.6 ? " right" : ""}` }, text));
    boxes.push(element);
  };
  const shown = rivalOf(error) ?? error.detected.find(([column]) => column === error.column) ?? error.detected[0];
  add(error.annotatedBox, "annotated", `annotated: ${error.annotated.map(nameOf).join(", ")}`);
  add(error.detectedBox, "detected", shown ? `detected: ${nameOf(shown[0])} ${score(shown[1])}` : "detected");
  return boxes;
}

function describe(error) {
  const kind = review.kinds[error.kind], rows = [];
  const add = (name, ...content) => rows.push(make("dt", {}, name), make("dd", {}, ...content));
  add("class", make("b", {}, nameOf(error.column)), ` (${score(error.score)})`);
  const people = error.person < 0 ? "" : `person ${error.person}: `;
  const mark = (name, box) => box ? [make("span", { class: `key ${name}` })] : [];
  add("annotated", ...mark("annotated", error.annotatedBox), error.annotated.length ? people + error.annotated.map(nameOf).join(", ") : "nobody here");
  const list = make("ul");
  for (const [column, value] of error.detected)
    list.append(make("li", {}, `${nameOf(column)} ${score(value)}${error.annotated.includes(column) ? " \u2013 annotated" : ""}`));
  add("detected", ...mark("detected", error.detectedBox), error.detected.length ? list : "nobody here");
  if (error.annotatedBox && error.detectedBox) {
    const other = kind.name === "not detected" && error.iou >= review.iou ? "; this box is nearer to another person" : "";
    add("overlap", `IoU ${error.iou.toFixed(2)}${other}`);
  }
  add("video", error.video);
  if (error.second !== null) add("second", seconds(error.second));
  return rows;
}

/* How to correct the annotation. */
function remedy(error) {
  if (!review.annotate) return [make("p", {}, "If the label is wrong, correct it in "), make("code", {}, review.labels)];
  const person = error.person < 0 ? "" : `,${error.person}`;
  const hash = `#${encodeURIComponent(error.video)},${seconds(error.second)}${person}`;
  const link = make("a", { href: review.annotate.url + hash, target: "_blank", rel: "noopener noreferrer", id: "annotate" }, "correct it in vmae-det annotate");
  const command = make("code", {}, review.annotate.command);
  const copy = make("button", { type: "button", id: "copy" }, "Copy");
  copy.onclick = async () => {
    getSelection().selectAllChildren(command);
    try {
      await navigator.clipboard.writeText(review.annotate.command);
      copy.textContent = "Copied";
    } catch { copy.textContent = "Press Ctrl+C"; } // the command is selected
  };
  return [make("p", {}, "If the annotation is wrong, ", link, ". Start it first:"), command, " ", copy];
}

function thumbnail(error, index) {
  const picture = make("span", { class: "picture" });
  if (error.clip.name) picture.append(make("img", { src: `clips/${error.clip.name}.jpg`, loading: "lazy", alt: "" }));
  picture.append(...boxesOf(error, false));
  const rival = rivalOf(error);
  const summary = nameOf(error.column) + (rival ? ` < ${nameOf(rival[0])} ${score(rival[1])}` : error.score === null ? "" : ` ${score(error.score)}`);
  const where = error.second === null ? error.video : `${error.video}, ${seconds(error.second)} s`;
  const button = make("button", { type: "button", title: where }, picture,
    make("span", { class: "line" }, summary), make("span", { class: "line" }, where));
  button.onclick = () => show(index);
  return make("li", {}, button);
}

/* ---------------------------------------------------------------- start */

function tick() {
  const video = byId("video"), at = view.entries[view.index]?.clip.at ?? 0;
  if (video.duration) {
    byId("played").style.width = `${100 * video.currentTime / video.duration}%`;
    byId("keyframe").style.left = `${100 * at / video.duration}%`;
    byId("boxes").classList.toggle("away", Math.abs(video.currentTime - at) > AT_KEYFRAME);
  }
  requestAnimationFrame(tick);
}

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select")) return;
  const actions = {
    ArrowLeft: () => show(view.index - 1), ArrowRight: () => show(view.index + 1),
    b: () => byId("hide").click(), " ": () => setPlaying(!view.playing) };
  if (!actions[event.key] || (event.key === " " && event.target.closest("button, summary, a"))) return;
  event.preventDefault();
  actions[event.key]();
}

byId("title").textContent = document.title = review.title;
for (const [name, value] of review.facts) byId("facts").append(make("span", {}, `${name} `, make("b", {}, value)));
buildFilters();
byId("before").onclick = () => show(view.index - 1);
byId("after").onclick = () => show(view.index + 1);
byId("play").onclick = () => setPlaying(!view.playing);
byId("hide").onclick = () => {
  const hidden = byId("stage").classList.toggle("plain");
  byId("hide").setAttribute("aria-pressed", String(hidden));
};
byId("hide").hidden = !review.annotate; // a classifier has no boxes
byId("video").onloadedmetadata = ({ target }) => {
  // As wide as its height allows: the boxes are relative to the stage.
  byId("stage").style.maxWidth = `calc(70vh * ${target.videoWidth / target.videoHeight})`;
  if (!view.playing) seekKeyframe();
};
byId("video").onerror = () => {
  const name = view.entries[view.index]?.clip.name;
  if (name) trouble(`The clip does not play: clips/${name}.mp4 is missing or damaged. Run vmae-det review again.`);
};
addEventListener("keydown", pressed);
filter(Math.max(0, review.kinds.findIndex((kind) => countOf(kind, ALL) > 0)), ALL);
tick();
