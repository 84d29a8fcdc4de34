/* From a key press to a command. A key is named "a", "shift+a", "ctrl+z", "ArrowLeft", "shift+ArrowLeft", "?". */
import { actionKeys, isPrefix } from "./labels.js";

let prefix = null;
const WRITES = "input:not([type=checkbox]), select, textarea";

export function nameOf({ key, shiftKey, ctrlKey, metaKey, altKey }) {
  if (altKey) return null;
  const isLetter = /^\p{L}$/u.test(key), name = isLetter ? key.toLowerCase() : key;
  return `${ctrlKey || metaKey ? "ctrl+" : ""}${shiftKey && (isLetter || key.length > 1) ? "shift+" : ""}${name}`;
}

/* `tables()` returns the tables of commands that apply now; `toggle(action)` handles a key of a label, if `labels()`. */
export function listen(tables, labels, toggle) {
  document.addEventListener("keydown", (event) => {
    const name = nameOf(event);
    if (name === null || event.isComposing || document.querySelector("dialog[open]") || event.target.matches(WRITES)) return;
    if (event.target.matches("button, summary") && /^( |Enter)$/.test(event.key)) return; // the button's own
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
  });
  // After a click, Space and Enter belong to the page again, not to the button.
  document.addEventListener("click", (event) => { if (event.detail > 0) event.target.closest("button")?.blur(); });
}
