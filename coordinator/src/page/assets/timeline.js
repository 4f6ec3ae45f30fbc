// A job's life: states and generations over time, each recovery with its phases, and everything that happened.

import { badge, fill, h, keyed, nothing, shown, text } from "./dom.js";
import { clock, count, moment, number, percent, span, word } from "./format.js";
import { generations, phases, states } from "./phases.js";

/** Share of a lane below which a bar has no room for its name. */
const NARROW = 0.07;
const SHOWN = 200;

export function timelineTab() {
  const lanes = h("div", { class: "lanes" });
  const edges = h("div", { class: "edges", "aria-hidden": "true" });
  const recoveries = h("ol", { class: "recoveries" });
  const calm = nothing("No recovery", h("span", {}, "No generation ended early so far."));
  const events = h("tbody", {});
  const left = h("p", { class: "note" });
  const element = h("div", {},
    h("section", { "aria-labelledby": "life-title" }, h("h2", { id: "life-title" }, "Life"), h("div", { class: "card life" }, lanes, edges)),
    h("section", { "aria-labelledby": "recoveries-title" }, h("h2", { id: "recoveries-title" }, "Recoveries"), recoveries, calm),
    h("section", { "aria-labelledby": "events-title" }, h("h2", { id: "events-title" }, "Events"),
      h("div", { class: "scroll" }, h("table", { class: "list", "aria-label": "Events, newest first" },
        h("thead", {}, h("tr", {}, ["Time", "State", "What happened"].map((name) => h("th", { scope: "col" }, name)))), events)), left));

  return {
    element,
    update({ job, events: all }) {
      if (!job) return;
      const now = Date.now();
      const begin = moment(job.createTime) ?? now;
      const end = Math.max(begin + 1, moment(job.endTime) ?? now);
      const place = (from, to) => ({ "--from": String((from - begin) / (end - begin)), "--wide": String(Math.max(0, to - from) / (end - begin)) });
      const bar = (one, label, attributes) => h("i", { ...attributes, ...place(one.from, one.to), title: `${label}: ${span((one.to - one.from) / 1000)}` },
        (one.to - one.from) / (end - begin) > (label.length > 2 ? NARROW : NARROW / 4) ? h("b", {}, label) : null);
      const lived = states(job, all, now);
      const groups = generations(job, all, now);
      const faults = (job.recoveries ?? []).map((one) => moment(one.faultTime ?? one.detectedTime)).filter((at) => at !== null);
      fill(lanes,
        lane("State", sums(lived), lived.map((one) => bar(one, one.state.toLowerCase(), { "data-state": one.state }))),
        lane("Generation", groups.map((one) => `${one.generation}: ${span((one.to - one.from) / 1000)}`).join(", "),
          [...groups.map((one) => bar(one, String(one.generation), { class: "generation" })),
            ...faults.map((at) => h("u", { ...place(at, at), title: `fault at ${clock(at)}` }))]));
      fill(edges, h("span", {}, clock(begin)), h("span", {}, job.endTime ? clock(end) : "now"));
      const found = (job.recoveries ?? []).toReversed();
      shown(calm, found.length === 0);
      keyed(recoveries, found, (one) => `${one.generation}-${one.detectedTime ?? ""}`, recoveryItem);
      keyed(events, all.toReversed().slice(0, SHOWN), (one) => String(one.sequence), eventRow);
      text(left, all.length > SHOWN ? `${count(all.length - SHOWN)} older events are not shown; espalier describe has them.` : "");
    },
  };
}

function lane(title, words, bars) {
  return h("div", { class: "lane" }, h("span", { class: "lane-name" }, title), h("div", { class: "track", role: "img", "aria-label": `${title}: ${words}` }, bars));
}

/** "queued 2 s, running 4 min". */
function sums(lived) {
  const total = new Map();
  for (const { state, from, to } of lived) total.set(state, (total.get(state) ?? 0) + (to - from) / 1000);
  return [...total].map(([state, secs]) => `${state.toLowerCase()} ${span(secs)}`).join(", ");
}

function recoveryItem() {
  const title = h("h3", {});
  const why = h("p", {});
  const bar = h("div", { class: "phases" });
  const list = h("p", { class: "note" });
  const element = h("li", {}, title, why, bar, list);
  let drawn = "";
  return [element, (one) => {
    const { parts, total } = phases(one);
    const key = JSON.stringify(one);
    if (key === drawn) return;
    drawn = key;
    text(title, `Generation ${count(one.generation)} · ${word(one.cause)}${one.worker ? ` · ${one.worker}` : ""} · ${span(total)}`);
    const source = { SNAPSHOT: "a snapshot in memory", CHECKPOINT: "a checkpoint", BEGINNING: "the beginning" }[one.source] ?? "its state";
    const again = number(one.replayedSteps);
    text(why, `${sentence(one.reason ?? "")} It went on from ${source} at step ${count(one.fromStep)}; ${again ? `${count(again)} ${again === 1 ? "step was" : "steps were"} done again` : "no step was done again"}.`);
    const words = parts.map((part) => `${part.name} ${span(part.seconds)}`).join(" · ");
    fill(bar, parts.map((part) => h("i", { class: `phase-${part.at}`, "--share": String(total ? part.seconds / total : 0), title: `${part.name}: ${span(part.seconds)} (${percent(total ? part.seconds / total : 0)})` })));
    fill(list, ...legend(parts));
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", words);
  }];
}

function legend(parts) {
  return parts.map((part) => h("span", { class: "phase-key" }, h("i", { class: `phase-${part.at}`, "aria-hidden": "true" }), `${part.name} ${span(part.seconds)}`));
}

/** The API's sentences end open. */
function sentence(words) {
  return words ? `${words.replace(/\.$/, "")}.` : "";
}

function eventRow(first) {
  const at = moment(first.time);
  const kind = ["plan", "evaluation", "checkpoint", "failure", "recovery"].find((name) => first[name]) ?? "";
  const [mark, state] = badge();
  state(first.state);
  const row = h("tr", {}, h("td", { "data-label": "Time" }, h("time", { datetime: first.time ?? "" }, clock(at))),
    h("td", { "data-label": "State" }, mark),
    h("td", { "data-label": "What happened", class: "message" }, first.message ?? "", kind ? h("span", { class: "chip" }, kind) : null));
  return [row, () => {}];
}
