// The affinity map: a table of cosines whose cells have colours, so that what is seen is what is read.

import { attribute, fill, h, nothing, text } from "./dom.js";
import { count, figure, number, withSign } from "./format.js";
import { evidence, findings, relation } from "./evidence.js";

/** Tasks beyond which cells show colour alone; their numbers stay for readers and on hover. */
const NUMBERS = 16;

export function affinityTab() {
  const empty = nothing("No cosines yet", h("span", {}, "They are known where the gradients of at least two tasks reach the owners apart:"),
    h("code", {}, "exchange: {affinity: on}"));
  const grid = h("div", { class: "scroll" });
  const said = h("p", { class: "note said", role: "status" });
  const sentences = h("ul", { class: "findings card" });
  const tasks = h("tbody", {});
  const table = h("table", { class: "list", "aria-label": "Gradients of the tasks" },
    h("thead", {}, h("tr", {}, ["Task", "Gradient norm", "Weight", "Steps"].map((name, at) => h("th", { scope: "col", class: at ? "number" : null }, name)))), tasks);
  const full = h("div", { class: "columns" },
    h("section", { "aria-labelledby": "map-title" }, h("h2", { id: "map-title" }, "Affinity"),
      h("p", { class: "soft" }, "Cosine between the tasks' gradients on the shared backbone: where they point the same way, tasks help each other."),
      h("div", { class: "card map" }, grid, legend(), said)),
    h("section", { "aria-labelledby": "findings-title" }, h("h2", { id: "findings-title" }, "Findings"), sentences, h("div", { class: "scroll" }, table)));
  const element = h("div", {}, empty, full);
  let shape = "";
  const cells = new Map();

  function build(names) {
    cells.clear();
    const head = h("tr", {}, h("td", {}), names.map((name) => h("th", { scope: "col", title: name }, h("span", {}, name))));
    const rows = names.map((a) => h("tr", {}, h("th", { scope: "row", title: a }, a), names.map((b) => {
      const cell = h("td", a === b ? { class: "same" } : { tabindex: cells.size ? "-1" : "0" }, a === b ? "·" : "");
      if (a !== b) {
        cells.set(`${a}/${b}`, cell);
        for (const name of ["pointerenter", "focus"]) cell.addEventListener(name, () => text(said, cell.dataset.said ?? ""));
      }
      return cell;
    })));
    fill(grid, h("table", { class: names.length > NUMBERS ? "heat dense" : "heat", role: "grid", "aria-label": "Cosines between the gradients of tasks", onkeydown: walk }, h("thead", {}, head), h("tbody", {}, rows)));
  }

  return {
    element,
    update({ job }) {
      const affinity = job?.progress?.affinity;
      const pairs = affinity?.pairs ?? [];
      empty.hidden = pairs.length > 0;
      full.hidden = pairs.length === 0;
      if (!pairs.length) return;
      const names = affinity.tasks.map((task) => task.task);
      if (shape !== names.join("/")) {
        shape = names.join("/");
        build(names);
      }
      // Colours span what there is, but never less than a tenth: noise should look like noise.
      const most = Math.max(0.1, ...pairs.map((pair) => Math.abs(number(pair.cosine))));
      for (const pair of pairs) {
        for (const key of [`${pair.a}/${pair.b}`, `${pair.b}/${pair.a}`]) {
          const cell = cells.get(key);
          if (!cell) continue;
          const cosine = number(pair.cosine);
          text(cell, withSign(cosine));
          attribute(cell, "data-relation", relation(pair));
          attribute(cell, "data-sign", cosine < 0 ? "less" : "more");
          cell.dataset.said = `${pair.a} and ${pair.b}: ${evidence(pair)}`;
          cell.title = cell.dataset.said;
          cell.style.setProperty("--strength", `${Math.round((Math.abs(cosine) / most) * 55)}%`);
        }
      }
      const words = findings(affinity);
      if (sentences.textContent !== words.map((one) => one.text).join("")) fill(sentences, words.map((one) => h("li", { "data-relation": one.relation }, one.text)));
      fill(tasks, affinity.tasks.map((task) => h("tr", {}, h("th", { scope: "row" }, task.task), h("td", { class: "number", "data-label": "Gradient norm" }, figure(number(task.norm))),
        h("td", { class: "number", "data-label": "Weight" }, figure(number(task.weight))), h("td", { class: "number", "data-label": "Steps" }, count(task.steps)))));
    },
  };
}

/** One stop for Tab, however many tasks; arrow keys go from cell to cell, over the diagonal. */
function walk(event) {
  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const from = event.target.closest("td[tabindex]");
  if (!move || !from) return;
  event.preventDefault();
  const rows = from.closest("table").rows;
  let [row, column] = [from.parentElement.rowIndex + move[0], from.cellIndex + move[1]];
  while (rows[row]?.cells[column]?.className === "same") [row, column] = [row + move[0], column + move[1]];
  const to = rows[row]?.cells[column];
  if (!to?.hasAttribute("tabindex")) return;
  attribute(from, "tabindex", "-1");
  attribute(to, "tabindex", "0");
  to.focus();
}

function legend() {
  return h("div", { class: "heat-legend", "aria-hidden": "true" }, h("span", {}, "hurt"), h("i", {}), h("span", {}, "help"),
    h("span", { class: "note" }, "bold: beyond two standard errors"));
}
