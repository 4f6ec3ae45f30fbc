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
        h("p", { class: "soft" }, "As the coordinator keeps it, with all defaults."), h("pre", { class: "code", tabindex: "0", "aria-label": "Job file" }, coloured(yaml(job.spec ?? {})))));
    },
  };
}

function places(job) {
  const rows = [["Identity", job.uid], ["Export", job.exportPath], ["Checkpoint", job.checkpoint ? `${job.checkpoint.path} (step ${count(job.checkpoint.step)}${job.checkpoint.best ? ", the best so far" : ""})` : ""]]
    .filter(([, value]) => value);
  return h("dl", { class: "pairs card" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, h("code", {}, value))]));
}

/** The newest evaluation of each split: figures beside what the most frequent answer would get. */
function scores(job) {
  const found = (job.evaluations ?? []).flatMap(({ split, step, tasks }) => Object.entries(tasks ?? {}).map(([task, one]) =>
    ({ split, step, task, samples: one.samples, values: { loss: one.loss, ...one.metrics }, baseline: one.baseline ?? {} })));
  if (!found.length) return null;
  const metrics = [...new Set(found.flatMap((one) => Object.keys(one.values)))];
  const head = ["Task", "Split", "At step", "Samples", ...metrics.map((metric) => metric.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase()))];
  const cell = (label, value, ...more) => h("td", { class: "number", "data-label": label }, value, more);
  const rows = found.map((one) => h("tr", {}, h("th", { scope: "row" }, one.task), h("td", { "data-label": "Split" }, one.split),
    cell("At step", count(one.step)), cell("Samples", count(one.samples)), metrics.map((metric, at) => score(cell, head[at + 4], one, metric))));
  return h("section", { "aria-labelledby": "scores-title" }, h("h2", { id: "scores-title" }, "Evaluations"),
    h("p", { class: "soft" }, "The newest of each split; small, what the most frequent answer would get."),
    h("div", { class: "scroll" }, h("table", { class: "list", "aria-label": "Newest evaluations" },
      h("thead", {}, h("tr", {}, head.map((name, at) => h("th", { scope: "col", class: at > 1 ? "number" : null }, name)))), h("tbody", {}, rows))));
}

function score(cell, label, { values, baseline }, metric) {
  if (values[metric] === undefined) return cell(label, "–");
  const usual = baseline[metric];
  return cell(label, figure(number(values[metric])), usual === undefined ? null : h("span", { class: "note usual" }, figure(number(usual))));
}

/** The names of a file's fields apart from their values, for the eye. */
function coloured(file) {
  return file.split("\n").map((line) => {
    const [, pad, name, rest] = /^([\s-]*)([\w.]+:)(.*)$/.exec(line) ?? [null, line, "", ""];
    return [pad, name ? h("span", { class: "name" }, name) : null, `${rest}\n`];
  });
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
