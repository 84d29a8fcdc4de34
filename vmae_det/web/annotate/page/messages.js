/* What the page says: the state of saving, short notices, conflicts with other pages, the hint of a mode. */
import { amount, byId, make, personName, secondText } from "./dom.js";
import { endConflict, retryNow, state } from "./store.js";
import { view } from "./view.js";

const NOTICE = 6000; // ms
let timer = null, told = "";

/* Tell screen readers. */
export function say(text) { byId("spoken").textContent = text; }

export function notify(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => { byId("notice").hidden = true; }, NOTICE);
}
export function clearNotice() { byId("notice").hidden = true; }

export function showSaving() {
  const { kind, count, reason } = state, waiting = kind === "failing" || kind === "conflict";
  const text = { saved: "Saved", saving: "Saving…", conflict: "Not saved: another page changed this",
    failing: `Not saved: ${reason}. ${amount(count, "edit is", "edits are")} kept` }[kind];
  byId("saving").className = kind;
  byId("saving-text").textContent = text;
  byId("retry").hidden = kind !== "failing";
  const news = waiting ? text : told && "Saved"; // "Saving" after each key would be noise
  if (news && news !== told && kind !== "saving") say(news);
  if (kind !== "saving") told = waiting ? text : "";
  showConflict();
}

function showConflict() {
  const dialog = byId("conflict");
  if (!state.conflict) { if (dialog.open) dialog.close(); return; }
  if (dialog.open) return;
  const { entry, differences, taken } = state.conflict;
  byId("conflict-video").textContent = entry.doc.id;
  byId("conflict-list").replaceChildren(
    ...differences.slice(0, 12).map((change) => make("li", {}, describe(change))),
    ...(differences.length > 12 ? [make("li", {}, `and ${amount(differences.length - 12, "more change")}`)] : []),
    ...taken.map((person) => make("li", {}, `${personName(person)} is somebody else now. Your person gets a new number.`)));
  byId("conflict-edit").textContent = `Your edit: ${describeEdit(entry)}.`;
  dialog.showModal();
}
const EDIT_NAMES = { addPerson: "a new box", setBox: "a moved box", toggleAction: "a label", copyPrevious: "a copy of the keyframe before",
  hold: "labels over a range", deleteBox: "a deleted box", deletePerson: "a deleted person", cut: "a cut", join: "a join", split: "a split",
  setLooked: "looked at", accept: "accepted proposals", patch: "undo or redo" };
function describeEdit({ name, args: { person, second, action } }) {
  const label = action === undefined ? "" : ` ${view.actions.get(action).name}`;
  const where = second === undefined ? "" : ` at ${secondText(second)}`;
  return `${EDIT_NAMES[name]}${label}${typeof person === "number" ? ` of ${personName(person).toLowerCase()}` : ""}${where}`;
}
function describe({ second, person, before, after }) {
  if (person === undefined) return `${secondText(second)}: ${after ? "was marked as looked at" : "is not marked as looked at any more"}.`;
  const who = `${personName(person)} at ${secondText(second)}`;
  if (!after) return `${who}: the box was deleted.`;
  const names = after.actions.map((id) => view.actions.get(id)?.name ?? id).join(", ") || "no label";
  const moved = before && before.box.join() !== after.box.join() ? "the box was moved; " : before ? "" : "has a box now; ";
  return `${who}: ${moved}labels: ${names}.`;
}

export function showMode(hint, buttons) {
  const bar = byId("mode");
  bar.hidden = !hint;
  byId("tools").classList.toggle("covered", Boolean(hint));
  if (!hint) return;
  byId("mode-text").textContent = hint;
  if (bar.dataset.mode === view.mode.name) return;
  bar.dataset.mode = view.mode.name;
  byId("mode-buttons").replaceChildren(...buttons.map(({ text, run }) => {
    const button = make("button", { type: "button" }, text);
    button.onclick = run;
    return button;
  }));
}

export function wireMessages() {
  byId("retry").onclick = retryNow;
  byId("repeat").onclick = () => endConflict(true);
  byId("drop").onclick = () => endConflict(false);
  byId("conflict").oncancel = (event) => event.preventDefault();
  byId("conflict").onkeydown = (event) => {
    if (event.key === "r") endConflict(true);
    if (event.key === "x") endConflict(false);
  };
}
