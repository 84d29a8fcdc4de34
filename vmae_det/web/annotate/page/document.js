/* A video as the page has it: what the server confirmed (`base`), and with the edits that are not saved yet (`shown`). */
import { Annotations } from "./edits.js";

export class VideoDocument {
  constructor(json, poses) {
    this.poses = poses; // ids of the actions of which a person has one
    this.undo = [];
    this.redo = [];
    this.load(json);
    this.shown = this.base.clone();
  }
  /* Take the server's state; `rebase` of the store puts the edits on top. */
  load({ cells, looked_at, ...rest }) {
    Object.assign(this, rest); // id, width, height, rate, start, keyframes, revision, proposals, findings, clients, ...
    this.base = new Annotations(new Map(), new Set(looked_at));
    this.base.apply(cells.map(({ second, person, box, actions }) => {
      return { second, person, after: { box, actions: actions.toSorted((a, b) => a - b) } };
    }));
  }
  apply(patch) {
    this.shown.apply(patch);
    this.index = null;
  }
  cell(second, person) { return this.shown.get({ second, person }); }
  at(second) { return this.shown.cells.get(second) ?? new Map(); }
  looked(second) { return this.shown.looked.has(second); }
  /* Return person -> seconds, ascending, in order of appearance. */
  people() {
    if (this.index) return this.index;
    const found = new Map();
    for (const second of [...this.shown.cells.keys()].sort((a, b) => a - b))
      for (const person of [...this.at(second).keys()].sort((a, b) => a - b)) {
        if (!found.has(person)) found.set(person, []);
        found.get(person).push(second);
      }
    return (this.index = found);
  }
  newPerson() { return Math.max(-1, ...this.people().keys()) + 1; }
  /* Return the people whom a patch creates: the server refuses an id that another page took meanwhile. */
  createdBy(patch) {
    const given = new Set(patch.filter(({ person, after }) => person !== undefined && after).map(({ person }) => person));
    return [...given].filter((person) => !this.people().has(person));
  }
}
