// The newest lines of a log, and which of them a filter lets through. Pure.

const LEVELS = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

export class Ring {
  constructor(most) {
    Object.assign(this, { most, lines: [], dropped: 0 });
  }

  /** Adds a line; the oldest tenth goes when there are too many. */
  push(line) {
    this.lines.push(line);
    if (this.lines.length > this.most) {
      const gone = Math.ceil(this.most / 10);
      this.lines.splice(0, gone);
      this.dropped += gone;
    }
  }

  clear() {
    this.lines = [];
    this.dropped = 0;
  }
}

/** A test of lines: at least as grave as `level`, of a rank or worker, with a text in them. */
export function filter({ level, from, words }) {
  const grave = level ? LEVELS.indexOf(level) : LEVELS.length;
  const wanted = words.toLowerCase();
  return (line) => {
    const at = LEVELS.indexOf(line.level);
    return (at < 0 || at <= grave) && (!from || source(line) === from) && (!wanted || `${line.text}`.toLowerCase().includes(wanted));
  };
}

/** Who wrote a line: "rank 3" or the worker's name. */
export function source(line) {
  return line.rank === undefined || line.rank === null ? line.worker ?? "" : `rank ${line.rank}`;
}
