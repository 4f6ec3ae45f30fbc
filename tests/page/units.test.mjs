// The page's modules without DOM; run by `make test-page` where Node is: node --test tests/page/units.test.mjs
import assert from "node:assert/strict";
import test from "node:test";
import { findings, relation } from "../../coordinator/src/page/assets/evidence.js";
import { brief, clock, figure, moment, number, seconds, short, shorts, span, withSign } from "../../coordinator/src/page/assets/format.js";
import { Backoff, Lines, Live } from "../../coordinator/src/page/assets/live.js";
import { generations, phases, states } from "../../coordinator/src/page/assets/phases.js";
import { Pyramid, pyramidOf } from "../../coordinator/src/page/assets/pyramid.js";
import { Ring, filter } from "../../coordinator/src/page/assets/ring.js";
import { logMarks, marks, moved, roomy, scale, zoomed } from "../../coordinator/src/page/assets/scale.js";
import { Series } from "../../coordinator/src/page/assets/series.js";
import { yaml } from "../../coordinator/src/page/assets/spec.js";
import { Steps } from "../../coordinator/src/page/assets/steps.js";

/** The same numbers on every machine. */
function random(seed) {
  let state = seed;
  return () => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return state / 2147483648;
  };
}

function filled(points) {
  const pyramid = new Pyramid();
  const next = random(1);
  for (let step = 1; step <= points; step += 1) pyramid.push(step, next());
  return pyramid;
}

test("a window has no more points than asked for, whatever is in sight", () => {
  const pyramid = filled(100000);
  for (const [from, to] of [[0, 100000], [99000, 100000], [500, 700], [0, 1]]) {
    const { begin, end } = pyramid.window(from, to, 1000);
    assert.ok(end - begin <= 1000, `${end - begin} points of ${from}..${to}`);
    assert.ok(end > begin);
  }
});

test("a coarse point stands for the mean, the lowest and the highest of what it covers", () => {
  const pyramid = new Pyramid();
  for (const [at, value] of [1, 5, -2, 4, 8].entries()) pyramid.push(at + 1, value);
  const { steps, means, lows, highs, begin, end, tail } = pyramid.window(0, 10, 1);
  assert.equal(end - begin, 1);
  assert.deepEqual([steps[begin], means[begin], lows[begin], highs[begin]], [4, 2, -2, 5]);
  assert.deepEqual(tail, { step: 5, mean: 8 });
});

test("steps only rise: what was there before is not taken twice", () => {
  const pyramid = filled(10);
  assert.equal(pyramid.push(10, 1), false);
  assert.equal(pyramid.push(11, Number.NaN), false);
  assert.equal(pyramid.size, 10);
});

test("thinning keeps mean and extremes and bounds the points", () => {
  const pyramid = filled(4096);
  const mean = (one) => {
    let [sum, weight] = [0, 0];
    const [, means, , , weights] = one.levels[0].columns;
    for (let at = 0; at < one.size; at += 1) [sum, weight] = [sum + means[at] * weights[at], weight + weights[at]];
    return [sum / weight, weight];
  };
  const [before, points] = mean(pyramid);
  const bounds = pyramid.bounds(0, 5000);
  pyramid.thin(1000);
  assert.ok(pyramid.size <= 1000);
  const [after, still] = mean(pyramid);
  assert.equal(still, points);
  assert.ok(Math.abs(after - before) < 1e-9);
  assert.deepEqual(pyramid.bounds(0, 5000), bounds);
});

test("the nearest point is found at the ends and between", () => {
  const pyramid = pyramidOf({ steps: ["10", "20", "40"], means: [1, 2, 3] });
  assert.deepEqual([0, 14, 16, 29, 31, 99].map((step) => pyramid.at(pyramid.nearest(step)).step), [10, 10, 20, 20, 40, 40]);
  assert.equal(new Pyramid().nearest(3), -1);
});

test("marks are round, within the range and few", () => {
  assert.deepEqual(marks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(marks(0, 0, 5), [0]);
  assert.deepEqual(logMarks(0.01, 100, 20).filter((mark) => [0.01, 0.1, 1, 10, 100].includes(mark)), [0.01, 0.1, 1, 10, 100]);
  const next = random(7);
  for (let n = 0; n < 500; n += 1) {
    const low = (next() - 0.5) * 1e6;
    const high = low + next() * 10 ** (next() * 12 - 6) + 1e-3;
    const found = marks(low, high, 6);
    assert.ok(found.length <= 9, `${low}..${high}: ${found}`);
    const room = (high - low) * 1e-6;
    assert.ok(found.every((mark) => mark >= low - room && mark <= high + room));
  }
});

test("zooming keeps the step under the pointer, and nothing leaves the run", () => {
  assert.deepEqual(zoomed([0, 100], 50, 0.5, 100), [25, 75]);
  assert.deepEqual(zoomed([90, 100], 100, 4, 100), [60, 100]);
  assert.deepEqual(zoomed([0, 100], 0, 9, 100), [0, 100]);
  assert.deepEqual(moved([10, 20], -50, 100), [0, 10]);
  assert.deepEqual(moved([10, 20], 500, 100), [90, 100]);
  assert.equal(scale(1, 100, 0, 10, true)(10), 5);
  assert.deepEqual(roomy(3, 3).map((value) => value !== 3), [true, true]);
});

test("a window at the end follows the run, one in the middle stays", () => {
  const steps = new Steps(() => {});
  steps.grow(1000);
  assert.deepEqual(steps.range, [0, 1000]);
  steps.set([900, 1000]);
  steps.grow(1100);
  assert.deepEqual([steps.mode, steps.range], ["follow", [1000, 1100]]);
  steps.set([100, 200]);
  steps.grow(1200);
  assert.deepEqual([steps.mode, steps.range], ["fixed", [100, 200]]);
  steps.all();
  assert.deepEqual(steps.range, [0, 1200]);
});

test("lines are whole however the stream is cut", () => {
  const lines = new Lines();
  assert.deepEqual(["{\"a\"", ":1}\n\n{\"b\":2}\n{", "}\n"].flatMap((piece) => lines.push(piece)), ["{\"a\":1}", "{\"b\":2}", "{}"]);
});

test("pauses double up to a bound and begin again after success", () => {
  const backoff = new Backoff(100, 1000, () => 0);
  assert.deepEqual([1, 2, 3, 4, 5].map(() => backoff.next()), [100, 200, 400, 800, 1000]);
  backoff.reset();
  assert.equal(backoff.next(), 100);
});

test("a broken stream is opened again and its state is told, a refusal ends it", async () => {
  const told = [];
  const slept = [];
  let opens = 0;
  const live = new Live(async (signal, opened, seen) => {
    opens += 1;
    if (opens === 3) opened();
    if (opens === 3) seen();
    throw Object.assign(new Error("x"), { code: opens < 5 ? "UNAVAILABLE" : "PERMISSION_DENIED" });
  }, (change) => told.push(change.state), { backoff: new Backoff(100, 1000, () => 0), sleep: async (ms) => slept.push(ms) });
  await live.run();
  assert.deepEqual(slept, [100, 200, 100, 200]);
  assert.deepEqual(told, ["waiting", "waiting", "live", "waiting", "waiting", "failed"]);
});

test("what came live before a reload of the series stays", async () => {
  const answers = [
    { lastStep: "2", series: [{ name: "loss/a", steps: ["1", "2"], means: [3, 2] }] },
    { lastStep: "3", series: [{ name: "loss/a", steps: ["1", "2", "3"], means: [3, 2, 1.5] }] },
  ];
  const series = new Series(async () => answers.shift(), () => {});
  await series.load();
  series.progress({ step: "3", losses: { a: 1.5 } });
  series.progress({ step: "4", losses: { a: 1.25, b: 7 } });
  await series.load();
  const all = series.base.get("loss/a");
  assert.deepEqual([1, 2, 3, 4].map((step) => all.at(all.nearest(step)).mean), [3, 2, 1.5, 1.25]);
  assert.equal(all.size, 4);
  assert.equal(series.base.get("loss/b").value, 7);
  assert.equal(series.last, 4);
});

test("detail is asked for only where the whole run is too coarse, and then drawn", async () => {
  const asked = [];
  const points = (request, size) => {
    const from = Number(request.fromStep ?? 0);
    const to = Number(request.toStep ?? 0) || 100000;
    const steps = Array.from({ length: size }, (_, at) => String(Math.round(from + ((at + 1) * (to - from)) / size)));
    const means = steps.map(() => 1);
    return { lastStep: "100000", series: [{ name: "loss/a", steps, means, lows: means, highs: means }] };
  };
  const series = new Series(async (request) => {
    asked.push(request);
    return points(request, Math.min(request.maxPoints, 2000));
  }, () => {});
  await series.load();
  await series.want(0, 100000, 1000);
  assert.equal(asked.length, 1);
  await series.want(50000, 51000, 1000);
  assert.equal(asked.length, 2);
  assert.ok(series.view("loss/a", 50000, 51000) !== series.base.get("loss/a"));
  await series.want(50010, 51010, 1000);
  assert.equal(asked.length, 2, "a window beside it is covered");
});

test("memory of a series stays flat however long the job runs", () => {
  const series = new Series(async () => ({}), () => {}, 1000);
  for (let step = 1; step <= 50000; step += 1) series.progress({ step, losses: { a: 1 / step } });
  const base = series.base.get("loss/a");
  assert.ok(base.size <= 1000);
  assert.ok(base.levels[0].columns[0].length <= 2048);
  assert.equal(base.last, 50000);
});

test("the beginning of a long run stays as sharp as its end", () => {
  const series = new Series(async () => ({}), () => {}, 1000);
  for (let step = 1; step <= 50000; step += 1) series.progress({ step, losses: { a: step } });
  const base = series.base.get("loss/a");
  const within = (from, to) => {
    let points = 0;
    for (let at = 0; at < base.size; at += 1) if (base.at(at).step > from && base.at(at).step <= to) points += 1;
    return points;
  };
  assert.ok(within(0, 10000) >= 60, `${within(0, 10000)} points of the first fifth of ${base.size}`);
  const early = base.at(base.nearest(5000));
  assert.ok(Math.abs(early.mean - early.step) < 200 && early.low <= early.mean && early.high <= early.step, "a mean is of its own stretch");
});

test("values of the API are read as they come", () => {
  assert.deepEqual([number("12345678901"), number(undefined), number("NaN")], [12345678901, 0, Number.NaN]);
  assert.equal(moment("2026-01-02T03:04:05.123456789Z"), Date.UTC(2026, 0, 2, 3, 4, 5, 123));
  assert.equal(moment(undefined), null);
  assert.equal(seconds("12.5s"), 12.5);
  assert.equal(seconds(undefined), null);
});

test("figures are short and say what counts", () => {
  assert.deepEqual([0.01234, 1.23456, 12.3456, 1234.5, 1.5e-7, -0.5, 0].map(figure), ["0.0123", "1.235", "12.35", "1,235", "1.50e-7", "−0.5000", "0"]);
  assert.deepEqual([1500, 2e7, 0.25, 0, -0.0004].map(short), ["1.5k", "20M", "0.25", "0", "−4e-4"]);
  assert.deepEqual([817.33, 33790, 4.2, 999.7].map(brief), ["817", "33.8k", "4.20", "1000"]);
  assert.deepEqual([0.35, 4.24, 59, 192, 7500, 273600, null].map(span), ["350 ms", "4.2 s", "59 s", "3 min 12 s", "2 h 05 min", "3 d 4 h", "–"]);
  assert.deepEqual([0.314, -0.05, -0.001].map((value) => withSign(value)), ["+0.31", "−0.05", "+0.00"]);
  assert.equal(clock(null), "–");
});

test("help and hurt are claimed only beyond two standard errors", () => {
  const pair = (cosine, deviation, steps) => ({ a: "x", b: "y", cosine, deviation, conflicts: 0.04, steps: String(steps) });
  assert.deepEqual([pair(0.3, 0.1, 50), pair(-0.3, 0.1, 50), pair(0.01, 0.1, 50), pair(0.3, 0.1, 9)].map(relation), ["help", "hurt", "unclear", "unclear"]);
  // A running mean forgets: a million steps are no surer than 199.
  assert.equal(relation(pair(0.013, 0.1, 1000000)), "unclear");
  assert.deepEqual(findings({ tasks: [{}, {}], pairs: [pair(0.31, 0.12, 400)] }), [
    { relation: "help", text: "x and y help each other: cosine +0.31 ± 0.12 over 400 steps, 4\u00a0% of them in conflict" }]);
});

test("a recovery's phases add up, and unknown moments are left out", () => {
  const at = (secs) => `2026-01-01T00:00:0${secs}Z`;
  const { parts, total } = phases({ detectedTime: at(1), agreedTime: at(3), connectedTime: at(4) });
  assert.deepEqual(parts.map((part) => [part.name, part.seconds]), [["agreed", 2], ["connected", 1]]);
  assert.equal(total, 3);
});

test("states and generations fill a job's time without a gap", () => {
  const at = (minute) => new Date(Date.UTC(2026, 0, 1, 0, minute)).toISOString();
  const events = [[1, 0, "QUEUED"], [2, 1, "PREPARING", 1], [3, 2, "RUNNING"], [4, 5, "PREPARING", 2], [5, 6, "RUNNING"]]
    .map(([sequence, minute, state, generation]) => ({ sequence: String(sequence), time: at(minute), state, ...(generation && { plan: { generation } }) }));
  const job = { createTime: at(0), state: "RUNNING" };
  const lived = states(job, events, Date.parse(at(9)));
  assert.deepEqual(lived.map((one) => one.state), ["QUEUED", "PREPARING", "RUNNING", "PREPARING", "RUNNING"]);
  assert.ok(lived.every((one, index) => index === 0 || one.from === lived[index - 1].to));
  assert.deepEqual(generations(job, events, Date.parse(at(9))).map((one) => [one.generation, (one.to - one.from) / 60000]), [[1, 4], [2, 4]]);
});

test("a log keeps the newest lines and filters by level, rank and words", () => {
  const ring = new Ring(100);
  for (let n = 0; n < 1000; n += 1) ring.push({ level: n % 2 ? "INFO" : "ERROR", rank: n % 3, text: `step ${n}` });
  assert.ok(ring.lines.length <= 100 && ring.lines.at(-1).text === "step 999");
  const left = ring.lines.filter(filter({ level: "WARN", from: "rank 1", words: "STEP 99" }));
  assert.ok(left.length > 0 && left.every((line) => line.level === "ERROR" && line.rank === 1));
});

test("marks of one axis have as many digits, and those of several units stay short", () => {
  assert.deepEqual(shorts([0, 0.5, 1, 1.5]), ["0", "0.5", "1.0", "1.5"]);
  assert.deepEqual(shorts([23500, 24000, 24500]), ["23.5k", "24.0k", "24.5k"]);
  assert.deepEqual(shorts([500, 1000, 1500]), ["500", "1k", "1.5k"]);
  assert.deepEqual(shorts([-1, -0.25]), ["−1.00", "−0.25"]);
  assert.deepEqual(shorts([2e-5, 4e-5]), ["2e-5", "4e-5"]);
});

test("a job is written as YAML that reads like a job file", () => {
  const text = yaml({ name: "a-b", seed: "1", tasks: [{ name: "x", data: { train: ["/a/b.jsonl"] } }], tuning: { all: {} }, on: true, note: "a: b" });
  assert.equal(text, "name: a-b\nseed: 1\ntasks:\n  - name: x\n    data:\n      train: [/a/b.jsonl]\ntuning:\n  all: {}\non: true\nnote: \"a: b\"");
});
