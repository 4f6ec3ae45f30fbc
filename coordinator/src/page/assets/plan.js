// The plan of a generation: who sits where, which rank serves which task, which rank owns which slice of which block.

import { fill, h, nothing } from "./dom.js";
import { count, number, percent, word } from "./format.js";

/** Ranks beyond which a bar's slices are too thin to be told apart; then only the table has them. */
const SLICES = 64;

export function planTab() {
  const element = h("div", {});
  let shown = null;
  return {
    element,
    update({ job }) {
      const plan = job?.plan;
      const key = plan ? JSON.stringify(plan) : "";
      if (key === shown) return;
      shown = key;
      if (!plan) {
        fill(element, job ? nothing("No plan yet", h("span", {}, "It is made when the job is placed on ranks.")) : h("p", { class: "soft" }, "Asking the coordinator …"));
        return;
      }
      const seats = plan.seats ?? [];
      fill(element,
        h("p", { class: "row chips" }, chips(plan).map((chip) => h("span", { class: "chip" }, chip))),
        part("Ranks and tasks", serving(plan, seats)),
        part("Owners of the blocks", owners(plan, seats)),
        plan.reasons?.length ? part("Why", h("ul", { class: "findings card" }, plan.reasons.map((reason) => h("li", {}, reason)))) : null);
    },
  };
}

function part(title, ...children) {
  const id = `plan-${title.toLowerCase().replaceAll(" ", "-")}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

function chips(plan) {
  const exchange = plan.exchange ?? {};
  const found = [`generation ${count(plan.generation)}`, `${count(plan.seats?.length)} ranks`];
  found.push((exchange.sync ?? "SYNC_OWNER_COMBINE") === "SYNC_ALL_REDUCE" ? "one sum over all ranks" : "owners combine");
  found.push(`sharded: ${word((exchange.sharding ?? "SHARDING_OPTIMIZER").replace("SHARDING_", ""))}`);
  found.push(exchange.apart ? "a gradient for each task" : "one gradient for all tasks");
  if (exchange.dtype) found.push(word(exchange.dtype));
  return found;
}

/** Ranks down, tasks across; a cell says how much of the job's work a rank does for a task. */
function serving(plan, seats) {
  const tasks = plan.tasks ?? [];
  const loads = tasks.map((task) => new Map((task.shards ?? []).map((shard, at) => [shard, number(task.load?.[at])])));
  const load = (at, seat) => (seat.shards ?? []).reduce((sum, shard) => sum + (loads[at].get(shard) ?? 0), 0);
  const serves = (at, seat) => (seat.shards ?? []).some((shard) => loads[at].has(shard));
  const most = Math.max(1e-9, ...seats.flatMap((seat) => tasks.map((_, at) => load(at, seat))));
  return h("div", { class: "scroll" }, h("table", { class: "list matrix", "aria-label": "Which rank serves which task" },
    h("thead", {}, h("tr", {}, ["Rank", "Worker", "Device"].map((name) => h("th", { scope: "col" }, name)), tasks.map((task) => h("th", { scope: "col" }, task.task)))),
    h("tbody", {}, seats.map((seat) => h("tr", {},
      h("th", { scope: "row" }, h("span", { class: `swatch line-${(number(seat.rank) % 8) + 1}`, "aria-hidden": "true" }), String(seat.rank ?? 0)),
      h("td", { "data-label": "Worker" }, seat.worker), h("td", { "data-label": "Device" }, String(seat.device ?? 0)),
      tasks.map((task, at) => serves(at, seat)
        ? h("td", { class: "load", "data-label": task.task, "--strength": `${Math.round((load(at, seat) / most) * 45)}%` }, percent(load(at, seat)))
        : h("td", { class: "load none", "data-label": task.task }, "–")))))));
}

/** A row per block: a bar cut into the ranks' slices, and who owns how much. */
function owners(plan, seats) {
  const blocks = plan.blocks ?? [];
  const rows = blocks.map((block) => {
    const ends = (block.ends ?? []).map(number);
    const total = ends.at(-1) ?? 0;
    const slices = ends.map((end, rank) => ({ rank, size: end - (rank ? ends[rank - 1] : 0) })).filter((slice) => slice.size > 0);
    const words = total ? slices.slice(0, SLICES).map(({ rank, size }) => `rank ${rank} ${percent(size / total)}`).join(", ") : "frozen";
    const bar = h("div", { class: "slices", role: "img", "aria-label": words, title: words }, slices.length > SLICES ? null : slices.map(({ rank, size }) =>
      h("i", { class: `line-${(rank % 8) + 1}`, "--share": String(size / total) }, size / total > 0.07 ? String(rank) : "")));
    return h("tr", {}, h("th", { scope: "row" }, block.block), h("td", { class: "number", "data-label": "Numbers" }, total ? count(total) : "frozen"), h("td", { class: "wide", "data-label": "Owners" }, total ? bar : "–"));
  });
  const whole = seats.length ? `Each block is cut into ${seats.length} ${seats.length === 1 ? "slice" : "slices"}, one for each rank that owns it.` : "";
  return [h("p", { class: "soft" }, whole), h("div", { class: "scroll" }, h("table", { class: "list owners", "aria-label": "Owners of the blocks" },
    h("thead", {}, h("tr", {}, ["Block", "Numbers", "Owners by rank"].map((name) => h("th", { scope: "col", class: name === "Numbers" ? "number" : null }, name)))), h("tbody", {}, rows)))];
}
