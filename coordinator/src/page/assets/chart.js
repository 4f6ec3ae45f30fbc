// A chart of lines over steps on a canvas: as many points as pixels, whatever the job's length.

import { attribute, framed, h, text } from "./dom.js";
import { figure, short, shorts } from "./format.js";
import { hands } from "./hands.js";
import { logMarks, marks, roomy, scale } from "./scale.js";

const LEFT = 52;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 22;
/** Pixels to a point: more points would only blacken the chart, and software renderers pay for each. */
const PIXELS = 2.5;
/** Points before a window that a moving average begins with, so that it does not depend on where the window begins. */
const WARM = 60;

/** Colours of the page as it is now. */
function colours() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  const lines = [1, 2, 3, 4, 5, 6, 7, 8].map((n) => get(`--line-${n}`));
  return { lines, ink: get("--ink-soft"), grid: get("--grid"), cursor: get("--ink-faint"), mark: get("--warn"), font: `11px ${get("--sans")}` };
}

export class Chart {
  /**
   * `lines()` names what to draw: [{ name, label, view(from, to) → Pyramid }]; `events()` the steps to mark:
   * [{ step, label }]; `settings` is { log, smoothing }, shared by a job's charts like `steps`, of which those that are
   * not `noisy` leave the smoothing alone.
   */
  constructor({ title, note, steps, settings, lines, events = () => [], format = figure, tall = false, noisy = false }) {
    Object.assign(this, { steps, settings, lines, events, format, tall, noisy, hidden: new Set() });
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.legend = h("div", { class: "legend", role: "group", "aria-label": `${title}: lines` });
    this.plot = h("div", { class: tall ? "plot tall" : "plot", tabindex: "0", role: "application", "aria-label": `${title} over steps`,
      "aria-roledescription": "chart", "aria-describedby": "chart-help" }, this.canvas);
    this.element = h("figure", { class: "chart" },
      h("figcaption", {}, h("h3", {}, title), note ? h("span", { class: "note" }, note) : null, this.legend), this.plot);
    this.draw = framed(() => this.paint());
    this.observer = new ResizeObserver(framed(() => this.measure()));
    this.observer.observe(this.plot);
    this.release = hands(this);
    this.colours = colours();
    this.entries = new Map();
  }

  /** Ends it. */
  stop() {
    this.observer.disconnect();
    this.release();
  }

  /** Takes the colours of another theme. */
  restyle() {
    this.colours = colours();
    this.draw();
  }

  measure() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!width || !height) return;
    Object.assign(this, { width, height, ratio });
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.paint();
  }

  /** Pixels across. */
  get span() {
    return Math.max(1, (this.width ?? 600) - LEFT - RIGHT);
  }

  /** The step at a place of the canvas. */
  stepAt(x) {
    const [from, to] = this.steps.range;
    return from + ((x - LEFT) / this.span) * (to - from);
  }

  paint() {
    if (!this.width) return;
    const { width, height, ratio } = this;
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const [from, to] = this.steps.range;
    const all = this.lines();
    this.legendOf(all);
    const drawn = all.map((line, index) => ({ ...line, colour: this.colours.lines[index % this.colours.lines.length] }))
      .filter((line) => !this.hidden.has(line.name))
      .map((line) => ({ ...line, view: line.view(from, to) }))
      .map((line) => ({ ...line, last: line.view?.last, points: line.view?.window(from, to, this.span / PIXELS) }))
      .filter((line) => line.points && (line.points.end > line.points.begin || line.points.tail));
    const log = this.settings.log && drawn.every((line) => positive(line.points));
    const [low, high] = roomy(...extent(drawn, from, to, log), log);
    const x = scale(from, to, LEFT, width - RIGHT);
    const y = scale(low, high, height - BOTTOM, TOP, log);
    this.axes(context, { from, to, low, high, log, x, y });
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, this.span + 4, height - BOTTOM);
    context.clip();
    this.marks(context, x);
    const smoothing = this.noisy ? this.settings.smoothing : 0;
    for (const line of drawn) {
      // A band says how far the values scatter; without one the values themselves do.
      if (!band(context, line, x, y) && smoothing > 0) curve(context, line, x, y, 0, 0.28);
      newest(context, line, x, y, curve(context, line, x, y, smoothing, 1));
    }
    this.pointer(context, drawn, x, y);
    context.restore();
  }

  axes(context, { from, to, low, high, log, x, y }) {
    const { width, height } = this;
    context.font = this.colours.font;
    context.lineWidth = 1;
    context.strokeStyle = this.colours.grid;
    context.fillStyle = this.colours.ink;
    context.beginPath();
    context.textAlign = "right";
    context.textBaseline = "middle";
    const most = Math.max(2, Math.floor(height / 44));
    const across = log ? logMarks(low, high, most) : marks(low, high, most);
    const words = log ? across.map(short) : shorts(across);
    for (const [at, mark] of across.entries()) {
      const place = Math.round(y(mark)) + 0.5;
      context.moveTo(LEFT, place);
      context.lineTo(width - RIGHT, place);
      context.fillText(words[at], LEFT - 8, place);
    }
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const mark of marks(from, to, Math.max(2, Math.floor(this.span / 90)))) {
      if (!Number.isInteger(mark)) continue;
      const place = Math.round(x(mark)) + 0.5;
      context.moveTo(place, height - BOTTOM);
      context.lineTo(place, height - BOTTOM + 4);
      context.fillText(short(mark), Math.min(place, width - RIGHT - 12), height - BOTTOM + 7);
    }
    context.stroke();
  }

  /** A dashed line for each event, named on tall charts where names have room. */
  marks(context, x) {
    context.strokeStyle = context.fillStyle = this.colours.mark;
    context.textBaseline = "top";
    context.setLineDash([3, 3]);
    let free = LEFT;
    for (const { step, label } of this.events()) {
      const place = Math.round(x(step)) + 0.5;
      if (place < LEFT || place > this.width) continue;
      context.beginPath();
      context.moveTo(place, TOP);
      context.lineTo(place, this.height - BOTTOM);
      context.stroke();
      if (!this.tall || !label || place < free) continue;
      const wide = context.measureText(label).width + 6;
      const left = place + wide > this.width - RIGHT;
      context.textAlign = left ? "right" : "left";
      context.fillText(label, left ? place - 5 : place + 5, TOP);
      free = place + wide + 8;
    }
    context.setLineDash([]);
  }

  pointer(context, drawn, x, y) {
    const step = this.steps.cursor;
    if (step === null) return;
    context.strokeStyle = this.colours.cursor;
    context.beginPath();
    context.moveTo(Math.round(x(step)) + 0.5, TOP);
    context.lineTo(Math.round(x(step)) + 0.5, this.height - BOTTOM);
    context.stroke();
    for (const line of drawn) {
      const at = line.view.nearest(step);
      if (at < 0) continue;
      const point = line.view.at(at);
      context.fillStyle = line.colour;
      context.beginPath();
      context.arc(x(point.step), y(point.mean), 3, 0, 7);
      context.fill();
    }
  }

  /** A button per line, with the value at the cursor or the newest. */
  legendOf(all) {
    const step = this.steps.cursor;
    for (const [name, { button }] of this.entries) {
      if (all.some((line) => line.name === name)) continue;
      button.remove();
      this.entries.delete(name);
    }
    for (const [index, line] of all.entries()) {
      let entry = this.entries.get(line.name);
      if (!entry) {
        const value = h("span", { class: "value" });
        const button = h("button", { type: "button", class: "key", "aria-pressed": "true", title: "Show or hide",
          onclick: () => this.toggle(line.name) }, h("span", { class: `swatch line-${(index % 8) + 1}`, "aria-hidden": "true" }),
        h("span", {}, line.label), " ", value);
        this.legend.append(button);
        entry = { button, value };
        this.entries.set(line.name, entry);
      }
      const pyramid = line.view(...this.steps.range);
      const at = pyramid && step !== null ? pyramid.nearest(step) : -1;
      const value = at >= 0 ? pyramid.at(at).mean : pyramid?.value;
      text(entry.value, value === undefined || Number.isNaN(value) ? "" : this.format(value));
    }
  }

  toggle(name) {
    if (!this.hidden.delete(name)) this.hidden.add(name);
    attribute(this.entries.get(name).button, "aria-pressed", !this.hidden.has(name));
    this.draw();
  }
}

function positive({ means, begin, end, tail }) {
  for (let at = begin; at < end; at += 1) if (!(means[at] > 0)) return false;
  return !tail || tail.mean > 0;
}

/** Lowest and highest mean in sight; bands may reach beyond and are cut. */
function extent(drawn, from, to, log) {
  let low = Infinity;
  let high = -Infinity;
  for (const { points } of drawn) {
    const { steps, means, begin, end, tail } = points;
    for (let at = begin; at < end; at += 1) {
      // Of the points beyond the edges only what is next to them counts.
      if ((steps[at] < from && at + 1 < end && steps[at + 1] <= from) || steps[at] > to * 1.5 + 1) continue;
      const value = means[at];
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (tail) {
      low = Math.min(low, tail.mean);
      high = Math.max(high, tail.mean);
    }
  }
  return low <= high ? [low, high] : log ? [0.1, 1] : [0, 1];
}

/** Between the lowest and the highest value that each point stands for; whether there is anything between them. */
function band(context, { points, colour }, x, y) {
  const { steps, lows, highs, begin, end } = points;
  let any = false;
  for (let at = begin; at < end && !any; at += 1) any = highs[at] > lows[at];
  if (!any) return false;
  context.beginPath();
  for (let at = begin; at < end; at += 1) context.lineTo(x(steps[at]), y(highs[at]));
  for (let at = end - 1; at >= begin; at -= 1) context.lineTo(x(steps[at]), y(lows[at]));
  context.closePath();
  context.fillStyle = colour;
  context.globalAlpha = 0.14;
  context.fill();
  context.globalAlpha = 1;
  return true;
}

/** The means, or a moving average of them that forgets by `smoothing` from point to point; returns where it ends. */
function curve(context, { points, colour }, x, y, smoothing, alpha) {
  const { steps, means, begin, end, tail } = points;
  let average = 0;
  let weight = 0;
  const smooth = (value) => {
    if (!smoothing) return value;
    average = average * smoothing + value * (1 - smoothing);
    weight = weight * smoothing + (1 - smoothing);
    return average / weight;
  };
  if (smoothing) for (let at = Math.max(0, begin - WARM); at < begin; at += 1) smooth(means[at]);
  let [step, value] = [0, 0];
  const to = (next, mean) => {
    [step, value] = [next, smooth(mean)];
    context.lineTo(x(step), y(value));
  };
  context.beginPath();
  for (let at = begin; at < end; at += 1) to(steps[at], means[at]);
  if (tail) to(tail.step, tail.mean);
  context.strokeStyle = colour;
  context.globalAlpha = alpha;
  // Hairlines are the cheapest to draw by far, and the most legible where a line is dense.
  const dense = end - begin > 150;
  context.lineWidth = dense || alpha < 1 ? 1 : 1.8;
  context.lineJoin = dense ? "bevel" : "round";
  context.stroke();
  context.globalAlpha = 1;
  if (end - begin <= 40) {
    context.fillStyle = colour;
    for (let at = begin; at < end; at += 1) {
      context.beginPath();
      context.arc(x(steps[at]), y(means[at]), 2, 0, 7);
      context.fill();
    }
  }
  return [step, value];
}

/** A dot where a line ends, if that is its newest point. */
function newest(context, { last, colour }, x, y, [step, value]) {
  if (step < last) return;
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x(step), y(value), 2.8, 0, 7);
  context.fill();
}
