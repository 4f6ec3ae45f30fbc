// The window of steps that a job's charts share, and the step that the reader points at. Without DOM.

import { moved, zoomed } from "./scale.js";

/** Modes: `all` shows the whole run, `follow` the newest steps, `fixed` stays. */
export class Steps {
  constructor(changed) {
    Object.assign(this, { changed, mode: "all", from: 0, width: 1, last: 1, cursor: null });
  }

  /** [first, last] step in sight. */
  get range() {
    if (this.mode === "all") return [0, Math.max(1, this.last)];
    if (this.mode === "follow") return [Math.max(0, this.last - this.width), Math.max(1, this.last)];
    return [this.from, this.from + this.width];
  }

  /** The job went on. */
  grow(last) {
    if (last <= this.last) return;
    this.last = last;
    if (this.mode !== "fixed") this.changed();
  }

  set([from, to]) {
    Object.assign(this, { from, width: Math.max(1e-9, to - from) });
    if (this.width >= this.last * 0.999) this.mode = "all";
    else this.mode = to >= this.last * (1 - 1e-9) ? "follow" : "fixed";
    this.changed();
  }

  zoom(centre, factor) {
    this.set(zoomed(this.range, centre, factor, this.last));
  }

  /** Towards the newest step while that is in sight, else towards the middle. */
  zoomMiddle(factor) {
    const [from, to] = this.range;
    this.zoom(this.mode === "fixed" ? (from + to) / 2 : to, factor);
  }

  move(by) {
    if (this.mode !== "all") this.set(moved(this.range, by, this.last));
  }

  all() {
    this.mode = "all";
    this.changed();
  }

  newest() {
    const [from, to] = this.range;
    this.set([this.last - (to - from), this.last]);
  }

  point(step) {
    const wanted = step === null ? null : Math.round(Math.min(Math.max(step, 0), this.last));
    if (wanted === this.cursor) return;
    this.cursor = wanted;
    this.changed();
  }

  /** In words, for the reader. */
  get words() {
    const [from, to] = this.range.map((step) => Math.round(step).toLocaleString("en-US"));
    const what = { all: "All steps", follow: "The newest steps", fixed: "Steps" }[this.mode];
    return `${what}, ${from} to ${to}`;
  }
}
