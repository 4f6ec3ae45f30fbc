"""Figures of the page: first paint, frames while panning, memory while it streams. Nothing is asserted."""

import statistics
import time

POINTS = 100000
LINES = 5

# The open charts get a job of 100,000 points in each of five lines, through the model that streams fill, and are moved at
# every frame; each painting is timed apart from the wait for the next frame.
PAN = """
const [points, lines, seconds] = arguments;
const [{ open }, { Pyramid }] = await Promise.all([import('/main.js'), import('/pyramid.js')]);
const { state, tab } = open();
const series = state.series;
// The job goes on meanwhile; its figures stay out of these.
series.progress = () => {};
series.evaluation = () => {};
let seed = 1;
const noise = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
series.base = new Map();
for (let line = 0; line < lines; line += 1) {
  const pyramid = new Pyramid();
  for (let step = 1; step <= points; step += 1) pyramid.push(step, (2 + line) * Math.exp(-step / 30000) + 0.2 * noise());
  series.base.set(`loss/synthetic-${line}`, pyramid);
}
Object.assign(series, { details: [], exact: true, last: points });
tab.update(state);
await new Promise(requestAnimationFrame);
const chart = tab.charts.get('loss');
const paint = chart.paint.bind(chart);
const painting = [];
chart.paint = () => {
  const begin = performance.now();
  paint();
  painting.push(performance.now() - begin);
};
const pan = async (width) => {
  tab.steps.set([points / 2 - width / 2, points / 2 + width / 2]);
  const times = [];
  let direction = 1;
  const begin = performance.now();
  while (performance.now() - begin < seconds * 1000) {
    const [from, to] = tab.steps.range;
    if (from <= 0 || to >= points) direction = -direction;
    tab.steps.move((direction * width) / 120);
    times.push(await new Promise(requestAnimationFrame));
  }
  const gaps = times.slice(1).map((at, index) => at - times[index]).sort((a, b) => a - b);
  const paints = painting.splice(0).sort((a, b) => a - b);
  const share = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
  return { steps_in_sight: width, frames_per_second: (1000 * gaps.length) / gaps.reduce((sum, gap) => sum + gap, 0),
    frame_ms_95: share(gaps, 0.95), frame_ms_worst: gaps.at(-1), paint_ms_median: share(paints, 0.5), paint_ms_95: share(paints, 0.95) };
};
const found = [];
for (const width of [points * 0.9, points / 10, points / 100]) found.push(await pan(width));
delete chart.paint;
return found;
"""


def first_paint(browser, server, times=7):
    """Milliseconds to the first contentful paint, nothing in the browser's cache."""
    browser.cdp("Network.enable")
    browser.cdp("Network.setCacheDisabled", cacheDisabled=True)
    found = []
    for _ in range(times):
        browser.open("about:blank")
        browser.open(server)
        found.append(browser.until("performance.getEntriesByName('first-contentful-paint')[0]?.startTime", 15))
    browser.cdp("Network.setCacheDisabled", cacheDisabled=False)
    return {"median": statistics.median(found), "worst": max(found), "times": times}


def panning(browser, server, job, seconds=4):
    """Frames while the chart of 100,000 points a line is moved, most of it, a tenth and a hundredth in sight."""
    browser.open("about:blank")
    browser.open(f"{server}/#/jobs/{job}")
    browser.until("document.querySelector('.plot.tall canvas')?.width > 0", 30)
    script = f"return (async (...arguments_) => {{ {PAN.replace('arguments;', 'arguments_;', 1)} }})(...arguments);"
    return {"points": POINTS, "lines": LINES, "windows": browser.run(script, POINTS, LINES, seconds)}


def used(browser):
    """Megabytes that the page holds after garbage was collected: objects, elements, and the columns of its series."""
    browser.cdp("HeapProfiler.collectGarbage")
    usage = browser.cdp("Runtime.getHeapUsage")
    return sum(usage.get(part, 0) for part in ("usedSize", "embedderHeapUsedSize", "backingStorageSize")) / 1048576


def memory(browser, server, job, minutes):
    """Megabytes of the page: once streaming is under way, and then every minute; and after 72,000 more reports at once."""
    browser.open("about:blank")
    browser.open(f"{server}/#/jobs/{job}")
    browser.until("document.querySelector('.plot.tall canvas')?.width > 0", 30)
    time.sleep(10)
    found = [used(browser)]
    for _ in range(minutes):
        time.sleep(60)
        found.append(used(browser))
    return {"minutes": minutes, "megabytes": [round(value, 2) for value in found], "reports_at_once": hurried(browser)}


# What the coordinator tells twice a second, told as fast as the page can take it: the days of a long run.
HURRY = """
const [reports] = arguments;
const { state } = (await import('/main.js')).open();
const { series, job } = state;
for (let at = 0; at < reports; at += 1) {
  const losses = Object.fromEntries(Object.keys(job.progress.losses).map((task) => [task, 1 + Math.sin(at / 500)]));
  series.progress({ ...job.progress, step: String(series.last + 5), losses });
  if (at % 300 === 0) await new Promise(requestAnimationFrame);
}
"""


def hurried(browser, rounds=8, reports=9000):
    """[[reports so far, megabytes]]."""
    script = f"return (async (...given) => {{ {HURRY.replace('arguments;', 'given;', 1)} }})(...arguments);"
    found = []
    for at in range(1, rounds + 1):
        browser.run(script, reports)
        found.append([at * reports, round(used(browser), 2)])
    return found
