// The figures of one job: a coarse pyramid of the whole run, finer ones of windows that were looked at, and the
// newest points as they come. Talks to the coordinator only through the function it is given; without DOM.

import { number } from "./format.js";
import { Pyramid, pyramidOf } from "./pyramid.js";

/** What is asked for; cosines are shown by the affinity map. */
const WANTED = ["loss/", "validation/", "test/", "weight/", "samples_per_second", "tokens_per_second", "learning_rate", "gradient_norm"];
const BASE_POINTS = 2000;
/** Points of a series beyond which the whole run is kept coarser: as coarse as the coordinator tells it. */
const KEPT = 2 * BASE_POINTS;
/** Windows that are kept in detail, and points of one beyond which it is asked for anew. */
const WINDOWS = 6;
const WINDOW_POINTS = 24000;

export class Series {
  /** `fetch(request)` answers as GetJobSeries; `changed()` hears that there is something new to draw. */
  constructor(fetch, changed, kept = KEPT) {
    Object.assign(this, { fetch, changed, kept });
    this.base = new Map();
    this.details = [];
    this.last = 0;
    this.exact = true;
    this.asking = null;
  }

  /** Names of the series that begin with `prefix`, in order. */
  names(prefix) {
    return [...this.base.keys()].filter((name) => name.startsWith(prefix)).sort();
  }

  /** Reads the whole run; what came live since stays. */
  async load() {
    const answer = await this.fetch({ series: WANTED, maxPoints: BASE_POINTS });
    const fresh = new Map();
    this.exact = true;
    for (const one of answer.series ?? []) {
      fresh.set(one.name, pyramidOf(one));
      if (one.lows?.length) this.exact = false;
    }
    for (const [name, old] of this.base) {
      const made = fresh.get(name) ?? new Pyramid();
      for (let at = old.nearest(made.last + 1); at >= 0 && at < old.size; at += 1) {
        const { step, mean, low, high } = old.at(at);
        made.push(step, mean, low, high);
      }
      fresh.set(name, made);
    }
    this.base = fresh;
    this.details = [];
    this.last = Math.max(this.last, number(answer.lastStep));
    this.changed();
  }

  /** Takes in how far the job is. */
  progress(progress) {
    const step = number(progress.step);
    for (const [task, loss] of Object.entries(progress.losses ?? {})) this.point(`loss/${task}`, step, loss);
    for (const task of progress.affinity?.tasks ?? []) this.point(`weight/${task.task}`, step, task.weight);
    this.point("samples_per_second", step, progress.samplesPerSecond);
    if (number(progress.tokensPerSecond) > 0) this.point("tokens_per_second", step, progress.tokensPerSecond);
    this.point("learning_rate", step, progress.learningRate);
    this.point("gradient_norm", step, progress.gradientNorm);
    this.last = Math.max(this.last, step);
    this.changed();
  }

  /** Takes in an evaluation. */
  evaluation(evaluation) {
    const step = number(evaluation.step);
    for (const [task, scores] of Object.entries(evaluation.tasks ?? {})) {
      const figures = { loss: scores.loss, ...scores.metrics };
      for (const [metric, value] of Object.entries(figures)) this.point(`${evaluation.split}/${task}/${metric}`, step, value);
    }
    this.last = Math.max(this.last, step);
    this.changed();
  }

  point(name, step, value) {
    if (value === undefined || value === null) return;
    let base = this.base.get(name);
    if (!base) this.base.set(name, (base = new Pyramid()));
    base.push(step, Number(value));
    if (base.size > this.kept) {
      base.thin(this.kept / 2);
      this.exact = false;
    }
    for (const detail of this.details) {
      if (detail.open) detail.of.get(name)?.push(step, Number(value));
    }
    this.details = this.details.filter((detail) => !detail.open || (detail.of.get(name)?.size ?? 0) <= WINDOW_POINTS);
  }

  /** The finest that is here of a series within a window; undefined if there is nothing. */
  view(name, from, to) {
    const base = this.base.get(name);
    const detail = this.covering(from, to);
    return (detail && detail.of.get(name)) || base;
  }

  covering(from, to) {
    const end = Math.min(to, this.last);
    return this.details.findLast((one) => one.from <= Math.max(0, from) && (one.open || one.to >= end));
  }

  /** Asks for a window in detail, where what is here is coarser than `points` can show. */
  async want(from, to, points) {
    if (this.exact) return;
    const width = to - from;
    const fine = (detail) => detail.per <= Math.max(1, width / points) * 1.5;
    const here = this.covering(from, to);
    if (here && fine(here)) return;
    // The base is as good where the window is nearly the whole run.
    if (width / points >= (this.last / BASE_POINTS) * 0.75) return;
    const begin = Math.max(0, Math.floor(from - width / 2));
    const end = Math.min(this.last, Math.ceil(to + width / 2));
    const key = `${begin}-${end}-${points}`;
    if (this.asking) return;
    this.asking = key;
    try {
      const open = end >= this.last;
      const maxPoints = Math.min(10000, Math.round(points * 2));
      const request = { series: WANTED, fromStep: String(begin), toStep: String(open ? 0 : end), maxPoints };
      const answer = await this.fetch(request);
      const of = new Map((answer.series ?? []).map((one) => [one.name, pyramidOf(one)]));
      const per = Math.max(1, (end - begin) / maxPoints);
      this.details = [...this.details, { from: begin, to: end, open, per, of }].slice(-WINDOWS);
      this.changed();
    } catch {
      // The coarse picture stays; the next movement asks again.
    } finally {
      this.asking = null;
    }
  }
}
