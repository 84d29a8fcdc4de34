/* From a key press to a command. A key is named "a", "shift+a", "ctrl+z", "ArrowLeft", "shift+ArrowLeft", "?". */
import { actionKeys, isPrefix } from "./labels.js";

let prefix = null;
const WRITES = "input:not([type=range]), textarea";
const OWN_KEYS = { button: /^( |Enter)$/, "input[type=range]": /^(Arrow|Home|End|Page)/ }; // that an element handles itself

export function nameOf({ key, shiftKey, ctrlKey, metaKey, altKey }) {
  if (altKey) return null;
  const isLetter = /^\p{L}$/u.test(key), name = isLetter ? key.toLowerCase() : key;
  return `${ctrlKey || metaKey ? "ctrl+" : ""}${shiftKey && (isLetter || key.length > 1) ? "shift+" : ""}${name}`;
}

/* The field of a dialog keeps the focus for a moment after the dialog was closed. */
const isWriting = (element) => element.matches(WRITES) && element.checkVisibility();

/* `tables()` returns the tables of commands that apply now; `toggle(action)` handles a key of a label, if `labels()`. */
export function listen(tables, labels, toggle) {
  document.addEventListener("keydown", (event) => {
    const name = nameOf(event);
    if (name === null || event.isComposing || document.querySelector("dialog[open]") || isWriting(event.target)) return;
    if (Object.entries(OWN_KEYS).some(([kind, own]) => event.target.matches(kind) && own.test(event.key))) return;
    const before = prefix;
    prefix = null;
    if (["Shift", "Control", "Meta"].includes(event.key)) { prefix = before; return; }
    const action = labels() && actionKeys.get(before ? `${before} ${name}` : name);
    const command = before ? null : tables().flat().find(({ keys }) => keys.includes(name));
    if (!action && !command) {
      if (labels() && !before && isPrefix(name)) prefix = name;
      return;
    }
    event.preventDefault();
    if (command) command.run(); else toggle(action);
  }, { capture: true }); // before the key closes a dialog, which would make it a key of the page
  // After a click, all keys belong to the page again.
  document.addEventListener("click", (event) => { if (event.detail > 0) event.target.closest("button, input[type=range]")?.blur(); });
}
