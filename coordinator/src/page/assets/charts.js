// The charts of a job: losses, metrics of evaluations, pace and the optimizer, over one window of steps.

import { Chart } from "./chart.js";
import { attribute, framed, h, keyed, nothing, shown, text } from "./dom.js";
import { figure, number, short } from "./format.js";
import { Steps } from "./steps.js";

/** How much of what was is kept from point to point of noisy figures, until the reader chooses. */
const SMOOTHING = 0.6;
const OVER = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);

export function chartsTab(state) {
  const { series } = state;
  const settings = { log: false, smoothing: SMOOTHING };
  const charts = new Map();
  const grid = h("div", { class: "charts" });
  const range = h("output", { class: "note" });
  const draw = framed(() => {
    text(range, steps.words);
    for (const chart of charts.values()) chart.draw();
    const [from, to] = steps.range;
    series.want(from, to, charts.get("loss")?.span ?? 800);
  });
  const steps = new Steps(draw);
  const log = h("button", { type: "button", "aria-pressed": "false", onclick: () => {
    settings.log = !settings.log;
    attribute(log, "aria-pressed", settings.log);
    draw();
  } }, "Log scale");
  const smoothing = h("input", { type: "range", min: "0", max: "0.98", step: "0.02", value: String(SMOOTHING), id: "smoothing", oninput: () => {
    settings.smoothing = Number(smoothing.value);
    text(smoothed, settings.smoothing.toFixed(2));
    draw();
  } });
  const smoothed = h("output", { class: "note", for: "smoothing" }, SMOOTHING.toFixed(2));
  const tool = (label, title, act) => h("button", { type: "button", "aria-label": title, title, onclick: act }, label);
  const tools = h("div", { class: "row tools", role: "group", "aria-label": "Charts" },
    tool("−", "Zoom out", () => steps.zoomMiddle(2)), tool("+", "Zoom in", () => steps.zoomMiddle(0.5)),
    tool("All", "Show all steps", () => steps.all()), tool("Newest", "Go to the newest step", () => steps.newest()), range,
    h("span", { class: "gap" }), log, h("span", { class: "knob" }, h("label", { for: "smoothing" }, "Smoothing"), smoothing, smoothed));
  const why = h("span", {});
  const empty = nothing("No step is recorded", why);
  const figures = h("tbody", {});
  const behind = h("details", { class: "behind" }, h("summary", {}, "The newest figures as a table"),
    h("div", { class: "scroll" }, h("table", { class: "list", "aria-label": "Newest figures" },
      h("thead", {}, h("tr", {}, ["Figure", "Newest", "At step", "Lowest", "Highest"].map((name) => h("th", { scope: "col" }, name)))), figures)));
  const help = h("p", { class: "note help" }, "Drag or use the arrow keys to move; pinch, Ctrl + wheel, double-click or + and − to zoom. Dashed lines are recoveries; "
    + "shaded is what lies between the lowest and the highest value. Smoothing leaves evaluations, rates and weights alone.");
  const element = h("div", {}, h("h2", { class: "unseen" }, "Charts"), tools, empty, grid, help, behind);
  const restyle = () => charts.forEach((chart) => chart.restyle());
  document.addEventListener("theme", restyle);

  /** Which charts there are follows from which series there are. */
  function wanted() {
    const found = [];
    const add = (key, title, names, label, more = {}) => names.length && found.push({ key, title, names, label, ...more });
    const task = (name) => name.split("/")[1];
    add("loss", "Training loss", inOrder(state, series.names("loss/")), task, { tall: true, noisy: true });
    for (const split of ["validation", "test"]) {
      const all = series.names(`${split}/`);
      for (const metric of [...new Set(all.map((name) => name.split("/")[2]))].sort()) {
        const names = inOrder(state, all.filter((name) => name.split("/")[2] === metric));
        // Tests are made once, at the end; the table has them.
        if (split === "validation" || names.some((name) => (series.base.get(name)?.size ?? 0) > 1)) {
          add(`${split}-${metric}`, `${metric.replaceAll("_", " ")}, ${split}`, names, task);
        }
      }
    }
    const tokens = series.names("tokens_per_second");
    add("pace", tokens.length ? "Tokens a second" : "Samples a second", tokens.length ? tokens : series.names("samples_per_second"), () => "all ranks", { format: short, noisy: true });
    add("norm", "Gradient norm", series.names("gradient_norm"), () => "before clipping", { noisy: true });
    add("rate", "Learning rate", series.names("learning_rate"), () => "backbone");
    const weights = series.names("weight/");
    if (weights.length > 1) add("weight", "Weights of the tasks", inOrder(state, weights), task);
    return found;
  }

  function make(one) {
    const chart = new Chart({ title: one.title, steps, settings, tall: one.tall, noisy: one.noisy, format: one.format ?? figure,
      events: () => (state.job?.recoveries ?? []).map((recovery) => ({ step: number(recovery.fromStep), label: "recovery" })),
      lines: () => one.names.map((name) => ({ name, label: one.label(name), view: (from, to) => series.view(name, from, to) })) });
    charts.set(one.key, chart);
    return [chart.element, (next) => {
      one.names = next.names;
    }];
  }

  return {
    element,
    steps,
    charts,
    update() {
      const all = wanted();
      shown(empty, all.length === 0);
      for (const one of [tools, help, behind]) shown(one, all.length > 0);
      text(why, OVER.has(state.job?.state) ? "The job ended before its first report." : "The charts begin with the first report of the ranks.");
      keyed(grid, all, (one) => one.key, make);
      for (const [key, chart] of charts) {
        if (all.some((one) => one.key === key)) continue;
        chart.stop();
        charts.delete(key);
      }
      steps.grow(series.last);
      if (behind.open) keyed(figures, rows(series), (row) => row.name, figureRow);
      draw();
    },
    stop() {
      document.removeEventListener("theme", restyle);
      charts.forEach((chart) => chart.stop());
    },
  };
}

/** Names of series by the order of their tasks in the job, so that a task has one colour in all charts. */
function inOrder(state, names) {
  const order = new Map((state.job?.spec?.tasks ?? []).map((task, at) => [task.name, at]));
  const place = (name) => order.get(name.split("/")[1]) ?? order.size;
  return [...names].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}

function rows(series) {
  return [...series.base].sort(([a], [b]) => a.localeCompare(b)).map(([name, pyramid]) => ({ name, pyramid, bounds: pyramid.bounds(0, Infinity) }));
}

function figureRow({ name }) {
  const cells = ["Newest", "At step", "Lowest", "Highest"].map((label) => h("td", { "data-label": label }));
  return [h("tr", {}, h("th", { scope: "row" }, name.replaceAll("_", " ").replaceAll("/", " · ")), cells), ({ pyramid, bounds }) => {
    const values = [figure(pyramid.value), pyramid.last.toLocaleString("en-US"), ...(bounds ?? []).map(figure)];
    cells.forEach((cell, at) => text(cell, values[at] ?? "–"));
  }];
}
