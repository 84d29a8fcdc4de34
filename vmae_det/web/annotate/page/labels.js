/* Side panel: who is at the keyframe, and the actions of the selected person, each with a key. */
import { amount, byId, colorOf, key, make, personName, secondText, shortName, show } from "./dom.js";
import { actionsOf, findingsAt, isPerson, isProposal, openProposals, proposalsAt, second, selectable, selectedCell, view } from "./view.js";

const KIND_NAMES = { PERSON_MOVEMENT: "Pose", OBJECT_MANIPULATION: "With objects", PERSON_INTERACTION: "With people" };
const KIND_CLASSES = { PERSON_MOVEMENT: "movement", OBJECT_MANIPULATION: "object", PERSON_INTERACTION: "interaction" };
const PREFIXES = [";", "'", ",", "."], AFTER_PREFIX = [..."1234567890abcdefghijklmnopqrstuvwxyz"];
export const actionKeys = new Map(); // key, or prefix and key -> action
let shownKeys = new Map(), on = null, needle = "";

/* Give each action a key: digits, letters that no command uses, the same with Shift, then two keys in sequence. */
export function assignKeys(actions, taken) {
  const letters = [..."abcdefghijklmnopqrstuvwxyz"].filter((letter) => !taken.has(letter));
  const single = [..."1234567890", ...letters, ...letters.map((letter) => `shift+${letter}`).filter((name) => !taken.has(name))];
  const double = PREFIXES.flatMap((prefix) => AFTER_PREFIX.map((after) => `${prefix} ${after}`));
  const keys = [...single, ...double];
  groups(actions).flatMap(([, members]) => members).forEach((action, k) => {
    if (keys[k]) actionKeys.set(keys[k], action);
  });
  shownKeys = new Map([...actionKeys].map(([name, { id }]) => [id, name.replace("shift+", "⇧")]));
}
export const isPrefix = (name) => PREFIXES.includes(name) && [...actionKeys.keys()].some((k) => k.startsWith(`${name} `));
/* Return [kind, actions] with poses first. */
function groups(actions) {
  const kinds = [...new Set(actions.map(({ kind }) => kind))];
  kinds.sort((a, b) => (b === "PERSON_MOVEMENT") - (a === "PERSON_MOVEMENT"));
  return kinds.map((kind) => [kind, actions.filter((action) => action.kind === kind)]);
}
const kindName = (kind) => KIND_NAMES[kind] ?? (kind ? kind.toLowerCase().replaceAll("_", " ") : "Actions");
const groupTitle = (kind) => (kind === "PERSON_MOVEMENT" ? "Pose, one each" : kindName(kind));
export const actionHelp = () => [...actionKeys].map(([name, action]) => [name.replace("shift+", "⇧"), action.name, kindName(action.kind)]);

/* `callbacks`: select(person), toggle(action). */
export function buildLabels(callbacks) {
  on = callbacks;
  for (const [kind, members] of groups(view.dataset.actions)) {
    const chips = members.map((action) => {
      const score = make("span", { class: "count" });
      const chip = make("button", { type: "button", class: "chip", "data-action": action.id, title: action.name, "aria-pressed": "false" },
        ...(shownKeys.has(action.id) ? [key(shownKeys.get(action.id))] : []), make("span", { class: "text" }, shortName(action.name)), score);
      chip.onclick = () => on.toggle(action);
      return chip;
    });
    byId("labels").append(make("div", { class: "kind", role: "group", "aria-label": kindName(kind) },
      make("h3", {}, make("span", { class: `dot ${KIND_CLASSES[kind] ?? "other"}` }), groupTitle(kind)), make("div", { class: "chips" }, ...chips)));
  }
  const field = byId("find");
  field.oninput = () => { needle = field.value.trim().toLowerCase(); filter(); };
  field.onkeydown = (event) => {
    if (event.key === "Enter") byId("labels").querySelector(".chip:not([hidden])")?.click();
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    field.value = needle = "";
    filter();
    field.blur();
  };
}
function filter() {
  for (const chip of byId("labels").querySelectorAll(".chip"))
    chip.hidden = !view.actions.get(Number(chip.dataset.action)).name.toLowerCase().includes(needle);
  for (const group of byId("labels").children) group.hidden = !group.querySelector(".chip:not([hidden])");
}

export function showPanel() {
  showPeople();
  showLabels();
}
function showPeople() {
  const here = selectable().map((person) => {
    const entry = isProposal(person) ? proposalsAt(second()).find((p) => p.person === person) : view.doc.cell(second(), person);
    const findings = isPerson(person) ? findingsAt(second(), person) : [];
    return { person, chosen: person === view.person, names: entry ? actionsOf({ ...entry, person }).map(({ name }) => name) : null,
      score: entry?.score ?? null, findings };
  });
  const general = findingsAt(second(), null);
  show(byId("people"), [view.doc.id, second(), here, general], () => [
    ...here.map(personItem),
    ...(here.length ? [] : [make("li", { class: "soft" }, emptyText())]),
    ...general.map((finding) => make("li", {}, findingItem(finding))),
  ]);
}
const findingItem = ({ severity, text }) => make("p", { class: `finding ${severity}` }, text);
function emptyText() {
  return view.doc.looked(second()) ? "Looked at: nobody is here." : "Nobody yet. Press n to draw a box, d if nobody is here.";
}
function personItem({ person, chosen, names, score, findings }) {
  const dot = make("span", { class: isProposal(person) ? "dot proposal" : "dot" });
  if (isPerson(person)) dot.style.background = colorOf(person);
  const text = names === null ? "no box here" : names.map(shortName).join(", ") || "no label";
  const button = make("button", { type: "button", class: "person", "aria-pressed": String(chosen), "data-name": String(person) },
    dot, make("strong", {}, personName(person)), make("span", { class: names?.length ? "text" : "text soft" }, text),
    ...(score === null ? [] : [make("span", { class: "count", title: "score of the detector" }, score.toFixed(2))]));
  button.onclick = () => on.select(person);
  return make("li", {}, button, ...findings.map(findingItem));
}

function showLabels() {
  const { person } = view, cell = selectedCell(), proposal = isProposal(person) ? proposalsAt(second()).find((p) => p.person === person) : null;
  const scores = new Map(proposal?.actions ?? []), likely = new Set(proposal ? actionsOf(proposal).map(({ id }) => id) : cell?.actions ?? []);
  byId("labels-title").textContent = person === null ? "Labels" : `Labels of ${personName(person).toLowerCase()}`;
  byId("labels-hint").textContent = view.mode ? "" : person === null ? "Select a person with ↑ and ↓." : proposal ? "Press Enter to accept the proposal."
    : cell ? "" : `No box at ${secondText(second())}. Press c to copy the one before, n to draw.`;
  for (const chip of byId("labels").querySelectorAll(".chip")) {
    const id = Number(chip.dataset.action);
    chip.setAttribute("aria-pressed", String(likely.has(id)));
    chip.disabled = !cell;
    chip.lastChild.textContent = scores.has(id) ? scores.get(id).toFixed(2) : "";
  }
}

export function showFacts() {
  const { doc, dataset } = view, entry = dataset.videos.find(({ id }) => id === doc.id);
  const looked = doc.keyframes.filter((s) => doc.looked(s)).length;
  if (entry) Object.assign(entry, { looked_at: looked, keyframes: doc.keyframes.length });
  const [done, total] = ["looked_at", "keyframes"].map((name) => dataset.videos.reduce((sum, video) => sum + (video[name] ?? 0), 0));
  const isComplete = dataset.videos.every((video) => video.keyframes !== null); // the server opens the videos one by one
  byId("facts").textContent = `${looked} of ${amount(doc.keyframes.length, "keyframe")} looked at`;
  const problems = byId("queues").querySelector("[data-key=w]");
  problems.lastChild.textContent = problems.ariaLabel = amount(doc.findings.length, "problem");
  byId("set-facts").textContent = `Set: ${done.toLocaleString("en")} of ${total.toLocaleString("en")}${isComplete ? "" : "…"}`;
  Object.assign(byId("progress"), { max: Math.max(total, 1), value: done });
  byId("others").hidden = !doc.clients;
  byId("others").textContent = doc.clients ? `Open in ${amount(doc.clients, "other page")}` : "";
  const open = openProposals().size ? [...openProposals().values()].reduce((sum, list) => sum + list.length, 0) : 0;
  const running = doc.proposal_state === "running";
  byId("proposal-state").textContent = running ? `Finding people… ${Math.round(100 * (doc.progress ?? 0))} %`
    : doc.proposal_state === "failed" ? `No proposals: ${doc.message}` : open ? amount(open, "proposal") : "";
}
