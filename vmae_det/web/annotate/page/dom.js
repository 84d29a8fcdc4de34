/* Elements and text. Names from outside become text nodes, never HTML. */
export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
export const key = (text) => make("kbd", {}, text);

/* Replace the children only if the content changed, so that focus and scroll positions stay. */
export function show(parent, signature, build) {
  const text = JSON.stringify(signature);
  if (parent.dataset.shown === text) return;
  parent.dataset.shown = text;
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
  parent.replaceChildren(...build());
  if (focused !== undefined) [...parent.querySelectorAll("[data-name]")].find((e) => e.dataset.name === focused)?.focus();
}

export const amount = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
export const secondText = (second) => `${Number(second.toFixed(3))} s`;
export function clockTime(seconds) {
  const whole = Math.floor(seconds + 1e-6), hours = Math.floor(whole / 3600);
  const rest = String(whole % 60).padStart(2, "0"), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}
/* Names in AVA contain examples, as in "talk to (e.g., self, a person)". They do not fit small spaces. */
export const shortName = (name) => name.replace(/\([^)]*\)/g, " ").replace(/\s+/g, " ").trim() || name;

/* Okabe and Ito's colors, which color-blind people can distinguish, by person. */
const COLORS = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#4f8ff7"];
export const colorOf = (person) => (typeof person === "number" ? COLORS[person % COLORS.length] : "#c8c8c8");
export const personName = (person) => (typeof person === "number" ? `Person ${person}` : `Proposal ${person.replace(/^p/, "")}`);

/* Resize a canvas to its CSS size; return its cleared context, with CSS pixels as units. */
export function freshContext(canvas, width, height) {
  const ratio = devicePixelRatio || 1, size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}
export function fit(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  const letters = [...text];
  while (letters.length && pen.measureText(`${letters.join("")}…`).width > room) letters.pop();
  return letters.length ? `${letters.join("").trimEnd()}…` : "";
}
