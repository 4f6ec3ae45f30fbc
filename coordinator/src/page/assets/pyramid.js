// One figure over steps, at every coarseness: each level holds half of the points of the one below,
// as (last step, mean, low, high, points). Appending and reading a window cost what they touch. Pure.

const FAN = 2;

/** Columns that grow. */
class Level {
  constructor() {
    this.size = 0;
    this.columns = [0, 1, 2, 3, 4].map(() => new Float64Array(64));
  }

  push(step, mean, low, high, weight) {
    if (this.size === this.columns[0].length) {
      this.columns = this.columns.map((old) => {
        const wide = new Float64Array(old.length * 2);
        wide.set(old);
        return wide;
      });
    }
    const [steps, means, lows, highs, weights] = this.columns;
    const at = this.size;
    steps[at] = step;
    means[at] = mean;
    lows[at] = low;
    highs[at] = high;
    weights[at] = weight;
    this.size += 1;
  }

  /** Index of the first point whose last step is at or after `step`. */
  seek(step) {
    const steps = this.columns[0];
    let low = 0;
    let high = this.size;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export class Pyramid {
  constructor() {
    this.levels = [new Level()];
  }

  /** Points of the finest level. */
  get size() {
    return this.levels[0].size;
  }

  /** The newest step; -1 if there is none. */
  get last() {
    const level = this.levels[0];
    return level.size ? level.columns[0][level.size - 1] : -1;
  }

  /** The newest value; NaN if there is none. */
  get value() {
    const level = this.levels[0];
    return level.size ? level.columns[1][level.size - 1] : Number.NaN;
  }

  /** Adds a point behind all others; one of a step that is there already, or before, is left out. */
  push(step, mean, low = mean, high = mean, weight = 1) {
    if (!Number.isFinite(mean) || step <= this.last) return false;
    this.levels[0].push(step, mean, low, high, weight);
    for (let at = 0; this.levels[at].size % FAN === 0; at += 1) {
      if (at + 1 === this.levels.length) this.levels.push(new Level());
      this.levels[at + 1].push(...merged(this.levels[at], this.levels[at].size - FAN, FAN));
    }
    return true;
  }

  /**
   * At most about `most` points of the window [from, to], and one beyond each end where there is one, so
   * that lines run to the edges: the columns and the range [begin, end) of the level that suits.
   */
  window(from, to, most) {
    let chosen = null;
    for (const level of this.levels) {
      const begin = Math.max(0, level.seek(from) - 1);
      const end = Math.min(level.size, level.seek(to) + 1);
      if (chosen && level.size === 0) break;
      chosen = { level, begin, end };
      if (end - begin <= most) break;
    }
    const { level, begin, end } = chosen;
    const [steps, means, lows, highs] = level.columns;
    return { steps, means, lows, highs, begin, end, tail: this.tail(level, to) };
  }

  /** What is newer than the last whole point of a coarse level: one point of the newest value. */
  tail(level, to) {
    const newest = this.last;
    const covered = level.size ? level.columns[0][level.size - 1] : -1;
    return newest > covered && newest <= to ? { step: newest, mean: this.value } : null;
  }

  /** Lowest and highest value within a window; null if there is no point. */
  bounds(from, to) {
    const { means, lows, highs, steps, begin, end } = this.window(from, to, 2000);
    let low = Infinity;
    let high = -Infinity;
    for (let at = begin; at < end; at += 1) {
      if (steps[at] < from || steps[at] > to) continue;
      low = Math.min(low, Number.isNaN(lows[at]) ? means[at] : lows[at]);
      high = Math.max(high, Number.isNaN(highs[at]) ? means[at] : highs[at]);
    }
    return low <= high ? [low, high] : null;
  }

  /** Index of the point of the finest level that is nearest to a step; -1 if there is none. */
  nearest(step) {
    const level = this.levels[0];
    if (!level.size) return -1;
    const at = Math.min(level.seek(step), level.size - 1);
    const steps = level.columns[0];
    return at > 0 && step - steps[at - 1] < steps[at] - step ? at - 1 : at;
  }

  /** A point of the finest level. */
  at(index) {
    const [steps, means, lows, highs] = this.levels[0].columns;
    return { step: steps[index], mean: means[index], low: lows[index], high: highs[index] };
  }

  /**
   * Merges the points of equal stretches of steps, so that at most `most` are left: memory stays flat however long a
   * job runs, and its beginning as sharp as its end.
   */
  thin(most) {
    const old = this.levels[0];
    if (old.size <= most) return;
    const [steps] = old.columns;
    const width = (steps[old.size - 1] - steps[0] + 1) / most;
    const stretch = (at) => Math.floor((steps[at] - steps[0]) / width);
    const fresh = new Pyramid();
    for (let at = 0, end = 0; at < old.size; at = end) {
      while (end < old.size && stretch(end) === stretch(at)) end += 1;
      fresh.push(...merged(old, at, end - at));
    }
    this.levels = fresh.levels;
  }
}

/** Several points of a level as one: [last step, weighted mean, low, high, weight]. */
function merged(level, begin, size) {
  const [steps, means, lows, highs, weights] = level.columns;
  let sum = 0;
  let weight = 0;
  let low = Infinity;
  let high = -Infinity;
  for (let at = begin; at < begin + size; at += 1) {
    sum += means[at] * weights[at];
    weight += weights[at];
    low = Math.min(low, lows[at]);
    high = Math.max(high, highs[at]);
  }
  return [steps[begin + size - 1], sum / weight, low, high, weight];
}

/** The pyramid of a series as GetJobSeries answers it. */
export function pyramidOf(series) {
  const { steps = [], means = [], lows = [], highs = [] } = series;
  const made = new Pyramid();
  let before = null;
  for (let at = 0; at < steps.length; at += 1) {
    const step = Number(steps[at]);
    // How many steps a point stands for is what lies between it and the one before.
    const weight = before === null ? 1 : Math.max(1, step - before);
    const mean = Number(means[at]);
    made.push(step, mean, Number(lows[at] ?? mean), Number(highs[at] ?? mean), weight);
    before = step;
  }
  return made;
}
