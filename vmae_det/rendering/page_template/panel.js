/* Side panel: filters, and the people of the current frame with their actions. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const kindName = (kind) => (kind ? kind.toLowerCase().replaceAll("_", " ") : "other");
const kinds = [...new Set(data.actions.map((action) => action.kind))];

function showLegend() {
  if (kinds.length < 2) return;
  byId("legend").append(...kinds.map((kind) => {
    const column = data.actions.findIndex((action) => action.kind === kind);
    return make("span", {}, make("span", { class: `dot ${colorName(column)}` }), kindName(kind));
  }));
}

/* Checkboxes of the actions, grouped by kind. */
const boxes = [];
function buildFilters(changed) {
  byId("score").min = data.floor;
  byId("score").value = filter.score;
  byId("score").oninput = () => { filter.score = Number(byId("score").value); changed(); };
  for (const kind of kinds) {
    const group = make("fieldset", {}, make("legend", {}, kindName(kind)));
    data.actions.forEach((action, column) => {
      if (action.kind !== kind) return;
      const box = make("input", { type: "checkbox", "data-action": action.id });
      const count = make("span", { class: "count" });
      box.checked = true;
      box.onchange = () => { filter.wanted[column] = Number(box.checked); changed(); };
      const label = make("label", { title: action.name }, box, make("span", { class: `dot ${colorName(column)}` }), make("span", { class: "text" }, action.name), count);
      boxes.push({ box, label, count, column });
      group.append(label);
    });
    byId("actions").append(group);
  }
  byId("search").oninput = () => {
    const needle = byId("search").value.trim().toLowerCase();
    for (const { label, column } of boxes) label.hidden = !data.actions[column].name.toLowerCase().includes(needle);
    for (const group of byId("actions").children) group.hidden = !group.querySelector("label:not([hidden])");
  };
  // Only the actions that match the search.
  const setAll = (checked) => () => {
    for (const { box, label, column } of boxes) if (!label.hidden) { box.checked = checked; filter.wanted[column] = Number(checked); }
    changed();
  };
  byId("all").onclick = setAll(true);
  byId("none").onclick = setAll(false);
}
/* Show the number of rows with the minimum score per action, and the number of rows that match all filters. */
function showCounts() {
  const counts = new Uint32Array(data.actions.length);
  rows.score.forEach((score, i) => { if (score >= filter.score) counts[rows.column[i]] += 1; });
  let passing = 0;
  for (const { box, count, label, column } of boxes) {
    count.textContent = counts[column].toLocaleString("en");
    label.classList.toggle("absent", !counts[column]);
    if (box.checked) passing += counts[column];
  }
  byId("score-value").textContent = filter.score.toFixed(2);
  byId("passing").textContent = `${passing.toLocaleString("en")} of ${rows.score.length.toLocaleString("en")} rows`;
  for (const id of ["export-csv", "export-json"]) byId(id).disabled = !passing;
}

let shownNow = "";
function showNow(chosen, choose) {
  const present = presentAt(now).map(({ person, row }) => ({ person, row, actions: actionsOf(row) }));
  const key = JSON.stringify([chosen?.id, present.map(({ row, actions }) => [row, actions.length])]);
  if (key === shownNow) return;
  shownNow = key;
  byId("now").replaceChildren(...present.map(({ person, actions }) => {
    const button = make("button", { type: "button", "aria-pressed": String(person === chosen), "data-person": person.id }, personName(person));
    button.onclick = () => choose(person);
    const list = actions.map(({ column, score }) => {
      const meter = make("span", { class: "meter" }, make("span", { class: colorName(column) }));
      meter.firstChild.style.width = `${100 * Math.min(score, 1)}%`;
      return make("li", {}, make("span", { class: "text", title: data.actions[column].name }, data.actions[column].name), meter, make("span", { class: "count" }, score.toFixed(2)));
    });
    return make("li", {}, button, make("ul", {}, ...(list.length ? list : [make("li", { class: "soft" }, "no actions match the filter")])));
  }));
  if (!present.length) byId("now").append(make("li", { class: "soft" }, data.wholeFrame ? "no clip near this frame" : "no people"));
}

function download(name, type, parts) {
  const link = make("a", { href: URL.createObjectURL(new Blob(parts, { type })), download: name.replace(/[\\/:*?"<>|\p{Cc}]/gu, "_") });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
