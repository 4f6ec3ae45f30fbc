// Axes: which marks are round, and where a value stands. Pure.

/** At most about `most` round marks within [low, high]. */
export function marks(low, high, most) {
  const width = high - low;
  if (!(width > 0) || !Number.isFinite(width)) return Number.isFinite(low) ? [low] : [];
  const rough = width / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const found = [];
  // Counted, not summed up, so that no error grows.
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) {
    found.push(Number((n * step).toPrecision(12)));
  }
  return found;
}

/** Marks of a logarithmic axis: powers of ten, with 2 and 5 between them where there is room. */
export function logMarks(low, high, most) {
  if (!(low > 0) || !(high > low)) return [];
  const found = [];
  const powers = Math.log10(high / low);
  const factors = powers * 3 <= most ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(powers / most));
  const first = Math.floor(Math.log10(low));
  for (let power = first; power <= Math.ceil(Math.log10(high)); power += 1) {
    if ((power - first) % every !== 0) continue;
    for (const factor of factors) {
      const value = Number((factor * 10 ** power).toPrecision(12));
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) found.push(value);
    }
  }
  // Within less than a factor of two no power lies; plain marks then say more.
  return found.length >= 2 ? found : marks(low, high, most);
}

/** A map from [low, high] to [begin, end], straight or by logarithm. */
export function scale(low, high, begin, end, log = false) {
  const from = log ? Math.log(low) : low;
  const width = (log ? Math.log(high) : high) - from || 1;
  const factor = (end - begin) / width;
  return log
    ? (value) => begin + (Math.log(Math.max(value, Number.MIN_VALUE)) - from) * factor
    : (value) => begin + (value - from) * factor;
}

/** [low, high] with a little room around; never empty. */
export function roomy(low, high, log = false) {
  if (!(low <= high)) return log ? [0.1, 1] : [0, 1];
  if (log) {
    const factor = low === high ? 2 : (high / low) ** 0.05;
    return [low / factor, high * factor];
  }
  const room = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
  return [low - room, high + room];
}

/** The window [from, to] of steps, made `factor` times as wide around `centre` and kept within [0, last]. */
export function zoomed([from, to], centre, factor, last, least = 4) {
  const width = Math.min(Math.max((to - from) * factor, least), Math.max(last, least));
  const share = to > from ? (centre - from) / (to - from) : 0.5;
  return kept(centre - width * share, width, last);
}

/** The window moved by so many steps, kept within [0, last]. */
export function moved([from, to], by, last) {
  return kept(from + by, to - from, last);
}

function kept(from, width, last) {
  const begin = Math.max(0, Math.min(from, last - width));
  return [begin, begin + width];
}
