// Streams that come back: lines of JSON, pauses between attempts, and what the page says of it. Without DOM.

/** Cuts a stream of text into lines; `rest` waits for its end. */
export class Lines {
  constructor() {
    this.rest = "";
  }

  /** The whole lines that a piece of text brings. */
  push(text) {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    return lines.filter((line) => line.trim() !== "");
  }
}

/** Pauses that double from `first` to `most` milliseconds, each up to a quarter shorter by chance. */
export class Backoff {
  constructor(first = 300, most = 10000, random = Math.random) {
    Object.assign(this, { first, most, random, tries: 0 });
  }

  /** The next pause. */
  next() {
    const whole = Math.min(this.most, this.first * 2 ** this.tries);
    this.tries += 1;
    return Math.round(whole * (1 - this.random() / 4));
  }

  /** It worked: begin again with the shortest pause. */
  reset() {
    this.tries = 0;
  }
}

/** Codes after which the same call can't succeed until somebody does something. */
const FINAL = new Set(["NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "UNIMPLEMENTED"]);

/**
 * Keeps a stream up. `open(signal, opened, seen)` runs it once and returns when it ended in order; `opened` is to
 * be called once it stands, `seen` with each message. What it throws is answered with a pause and another try,
 * unless the error's code is final. `report({state, error, wait})` hears of each change: live, waiting, ended,
 * failed.
 */
export class Live {
  constructor(open, report, { backoff = new Backoff(), sleep = pause } = {}) {
    Object.assign(this, { open, report, backoff, sleep });
    this.stopped = new AbortController();
    this.hurry = null;
  }

  async run() {
    while (!this.stopped.signal.aborted) {
      const attempt = new AbortController();
      const stop = () => attempt.abort();
      this.stopped.signal.addEventListener("abort", stop);
      this.attempt = attempt;
      try {
        const opened = () => this.say({ state: "live" });
        const seen = () => {
          this.backoff.reset();
          opened();
        };
        await this.open(attempt.signal, opened, seen);
        if (!this.again) {
          this.say({ state: "ended" });
          return;
        }
      } catch (error) {
        if (this.stopped.signal.aborted) return;
        if (FINAL.has(error.code)) {
          this.say({ state: "failed", error });
          return;
        }
        if (!this.again) await this.rest(error);
      } finally {
        this.stopped.signal.removeEventListener("abort", stop);
        this.again = false;
      }
    }
  }

  async rest(error) {
    const wait = this.backoff.next();
    this.said = null;
    this.say({ state: "waiting", error, wait, tries: this.backoff.tries });
    const early = new AbortController();
    this.hurry = early;
    const stop = () => early.abort();
    this.stopped.signal.addEventListener("abort", stop);
    await this.sleep(wait, early.signal);
    this.stopped.signal.removeEventListener("abort", stop);
    this.hurry = null;
  }

  say(change) {
    if (change.state === this.said) return;
    this.said = change.state;
    this.report(change);
  }

  /** Tries again at once if it waits. */
  retry() {
    this.hurry?.abort();
  }

  /** Ends the call under way and begins a new one. */
  restart() {
    this.again = true;
    this.attempt?.abort();
    this.hurry?.abort();
  }

  /** For good. */
  stop() {
    this.stopped.abort();
  }
}

/** Waits, or less if the signal comes. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
