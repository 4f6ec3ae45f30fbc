// What was asked for, with all defaults, and where the results are.

import { fill, h } from "./dom.js";
import { count, figure, number } from "./format.js";

export function specTab() {
  const element = h("div", {});
  let shown = "";
  return {
    element,
    update({ job }) {
      if (!job) return;
      const key = JSON.stringify([job.spec, job.checkpoint, job.exportPath, job.evaluations]);
      if (key === shown) return;
      shown = key;
      fill(element, places(job), scores(job), h("section", { "aria-labelledby": "spec-title" }, h("h2", { id: "spec-title" }, "Job file"),
        h("p", { class: "soft" }, "As the coordinator keeps it, with all defaults."), h("pre", { class: "code", tabindex: "0" }, yaml(job.spec ?? {}))));
    },
  };
}

function places(job) {
  const rows = [["Identity", job.uid], ["Export", job.exportPath], ["Checkpoint", job.checkpoint ? `${job.checkpoint.path} (step ${count(job.checkpoint.step)}${job.checkpoint.best ? ", the best so far" : ""})` : ""]]
    .filter(([, value]) => value);
  return h("dl", { class: "pairs" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, h("code", {}, value))]));
}

/** The newest evaluation of each split: figures beside what the most frequent answer would get. */
function scores(job) {
  const rows = (job.evaluations ?? []).flatMap((evaluation) => Object.entries(evaluation.tasks ?? {}).flatMap(([task, one]) =>
    Object.entries({ loss: one.loss, ...one.metrics }).map(([metric, value]) => h("tr", {}, h("th", { scope: "row" }, task), h("td", { "data-label": "Split" }, evaluation.split),
      h("td", { "data-label": "Figure" }, metric.replaceAll("_", " ")), h("td", { "data-label": "Value" }, figure(number(value))),
      h("td", { "data-label": "Baseline" }, one.baseline?.[metric] === undefined ? "–" : figure(number(one.baseline[metric]))),
      h("td", { "data-label": "Samples" }, count(one.samples))))));
  if (!rows.length) return null;
  return h("section", { "aria-labelledby": "scores-title" }, h("h2", { id: "scores-title" }, "Evaluations"), h("div", { class: "scroll" }, h("table", { class: "list", "aria-label": "Newest evaluations" },
    h("thead", {}, h("tr", {}, ["Task", "Split", "Figure", "Value", "Baseline", "Samples"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))));
}

/** Plain data as YAML, in the API's words. */
export function yaml(value) {
  return lines(value, "").join("\n");
}

/** The lines of an object or list, each behind `pad`. */
function lines(value, pad) {
  if (Array.isArray(value)) {
    return value.flatMap((one) => {
      if (!nested(one)) return [`${pad}- ${scalar(one)}`];
      const [first, ...rest] = lines(one, `${pad}  `);
      return [`${pad}- ${first.trimStart()}`, ...rest];
    });
  }
  return Object.entries(value).filter(([, one]) => one !== null && one !== undefined).flatMap(([key, one]) => {
    if (Array.isArray(one) && one.every((item) => !nested(item))) return [`${pad}${key}: [${one.map(scalar).join(", ")}]`];
    return nested(one) ? [`${pad}${key}:`, ...lines(one, `${pad}  `)] : [`${pad}${key}: ${scalar(one)}`];
  });
}

function nested(value) {
  return typeof value === "object" && value !== null && Object.keys(value).length > 0;
}

function scalar(value) {
  if (typeof value === "object") return Array.isArray(value) ? "[]" : "{}";
  return typeof value === "string" && !/^[A-Za-z/][\w./-]*$/.test(value) && !/^-?\d+$/.test(value) ? JSON.stringify(value) : String(value);
}
