// The cluster at a glance: figures, jobs by what they do, workers and their devices.

import { ApiError, call, stream } from "./api.js";
import { action } from "./actions.js";
import { attribute, badge, framed, h, keyed, nothing, shown, text } from "./dom.js";
import { ago, brief, count, moment, number, percent, seconds, span } from "./format.js";
import { keep } from "./link.js";
import { pause } from "./live.js";
import { maySteerWorkers, whenCaller } from "./session.js";

const ACTIVE = ["QUEUED", "PREPARING", "RUNNING", "PAUSING", "PAUSED", "CANCELLING"];
const ENDED = ["SUCCEEDED", "FAILED", "CANCELLED"];
const POLL_MS = 2000;
/** Rows that are shown before somebody asks for more. */
const ROWS = 100;
const PAGES = 40;

export function overview() {
  const state = { cluster: null, jobs: [], ended: [], workers: new Map(), rows: { jobs: ROWS, workers: ROWS }, filter: "" };
  const draw = framed(() => render());
  const parts = layout(state, draw);
  let endedFor = "";

  const jobs = keep(async (signal, opened) => {
    for (;;) {
      state.cluster = await call("ClusterService/GetCluster", {}, signal);
      opened();
      state.jobs = await list(ACTIVE, signal);
      // Ended jobs are read again only when one left the active ones.
      const names = state.jobs.map((job) => job.name).join(" ");
      if (names !== endedFor) {
        state.ended = await list(ENDED, signal);
        endedFor = names;
      }
      draw();
      await pause(POLL_MS, signal);
      signal.throwIfAborted();
    }
  });
  const workers = keep(async (signal, opened, seen) => {
    // Nothing in the stream says that a worker was forgotten meanwhile; a list does.
    const there = new Set(await names(signal));
    for (const name of state.workers.keys()) if (!there.has(name)) state.workers.delete(name);
    await stream("ClusterService/WatchWorkers", {}, ({ worker }) => {
      seen();
      state.workers.set(worker.name, worker);
      draw();
    }, signal, opened);
    // It has no end of its own: a coordinator that shuts down ends it in order.
    throw new ApiError({ code: "UNAVAILABLE", message: "the coordinator ended the stream" });
  });
  const release = whenCaller(draw);
  const tick = setInterval(draw, 5000);

  function render() {
    parts.figures(state);
    parts.jobs(state);
    parts.workers(state);
  }
  render();
  return {
    element: parts.element,
    stop() {
      jobs.stop();
      workers.stop();
      release();
      clearInterval(tick);
    },
  };
}

/** All jobs in some states, page by page. */
async function list(states, signal) {
  const found = [];
  let pageToken = "";
  for (let page = 0; page < PAGES; page += 1) {
    const answer = await call("JobService/ListJobs", { states, pageSize: 100, pageToken }, signal);
    found.push(...(answer.jobs ?? []));
    pageToken = answer.nextPageToken ?? "";
    if (!pageToken) break;
  }
  return found;
}

/** Names of all workers. */
async function names(signal) {
  const found = [];
  let pageToken = "";
  do {
    const answer = await call("ClusterService/ListWorkers", { pageSize: 500, pageToken }, signal);
    found.push(...(answer.workers ?? []).map((worker) => worker.name));
    pageToken = answer.nextPageToken ?? "";
  } while (pageToken);
  return found;
}

function layout(state, draw) {
  const figures = h("dl", { class: "figures" });
  const jobsBody = h("tbody", {});
  const endedBody = h("tbody", {});
  const jobsEmpty = nothing("No job is running or waiting", h("span", {}, "Submit one, and it appears here at once:"), h("code", {}, "espalier submit job.yaml"));
  const more = (key) => h("button", { type: "button", class: "more", hidden: true, onclick: () => {
    state.rows[key] += ROWS * 2;
    draw();
  } });
  const moreJobs = more("jobs");
  const moreWorkers = more("workers");
  const endedTitle = h("summary", {}, "Ended jobs");
  const endedPart = h("details", { class: "ended" }, endedTitle, table(["Job", "State", ["Steps"], ["Took"], ["Ended"]], endedBody, "Ended jobs"), moreJobs);
  endedPart.open = true;
  const workersBody = h("tbody", {});
  const workersEmpty = nothing("No worker has joined yet", h("span", {}, "Start one on each machine that is to compute:"),
    h("code", {}, "espalier-worker run ", h("span", { class: "whole" }, `--coordinator ${location.origin}`)));
  const filter = h("input", { type: "search", placeholder: "Name or host", "aria-label": "Filter workers", oninput: (event) => {
    state.filter = event.target.value.toLowerCase();
    draw();
  } });
  const jobsTable = table(["Job", "State", "Progress", ["Pace"], ["Left"], ["Ranks"], ["Priority"]], jobsBody, "Jobs");
  const workersTable = table(["Worker", "State", "Devices", ["Last heard of"], ""], workersBody, "Workers");
  const element = h("div", { class: "view" },
    h("h1", { class: "unseen" }, "Cluster"), figures,
    h("section", { "aria-labelledby": "jobs-title" }, h("h2", { id: "jobs-title" }, "Jobs"), jobsTable, jobsEmpty, endedPart),
    h("section", { "aria-labelledby": "workers-title" },
      h("div", { class: "row" }, h("h2", { id: "workers-title" }, "Workers"), filter), workersTable, workersEmpty, moreWorkers));
  return {
    element,
    figures: (now) => keyed(figures, figuresOf(now), ([name]) => name, () => {
      const [value, note] = [h("dd", {}), h("dd", { class: "note" })];
      const name = h("dt", {});
      return [h("div", {}, name, value, note), ([label, shownValue, words]) => {
        text(name, label);
        text(value, shownValue);
        text(note, words);
      }];
    }),
    jobs(now) {
      keyed(jobsBody, queued(now.jobs), (job) => job.uid ?? job.name, jobRow);
      shown(jobsTable, now.jobs.length > 0);
      shown(jobsEmpty, now.jobs.length === 0 && now.cluster !== null);
      const ended = now.ended.toReversed();
      keyed(endedBody, ended.slice(0, now.rows.jobs), (job) => job.uid ?? job.name, endedRow);
      shown(endedPart, ended.length > 0);
      text(endedTitle, `Ended jobs (${count(ended.length)})`);
      rest(moreJobs, ended.length - now.rows.jobs);
    },
    workers(now) {
      const all = [...now.workers.values()].filter((one) => `${one.name} ${one.host ?? ""}`.toLowerCase().includes(now.filter))
        .sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name, "en", { numeric: true }));
      keyed(workersBody, all.slice(0, now.rows.workers), (one) => one.name, (one) => workerRow(one, now, draw));
      shown(workersTable, all.length > 0);
      shown(workersEmpty, now.workers.size === 0 && now.cluster !== null);
      shown(filter, now.workers.size > 8);
      rest(moreWorkers, all.length - now.rows.workers);
    },
  };
}

function rest(button, hidden) {
  shown(button, hidden > 0);
  text(button, `Show more (${count(Math.max(0, hidden))} left)`);
}

/** Columns of figures are lists of one name. */
function table(names, body, label) {
  return h("div", { class: "scroll" }, h("table", { class: "list", "aria-label": label },
    h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col", class: Array.isArray(name) ? "number" : null }, name.length ? name : h("span", { class: "unseen" }, "Steer"))))), body));
}

/** Those that compute first, then the queue in its order. */
function queued(jobs) {
  const order = { RUNNING: 0, PAUSING: 0, CANCELLING: 0, PREPARING: 1, QUEUED: 2, PAUSED: 3 };
  return [...jobs].sort((a, b) => order[a.state] - order[b.state]
    || (b.spec?.priority ?? 0) - (a.spec?.priority ?? 0) || moment(a.createTime) - moment(b.createTime));
}

/** Gone workers last. */
const rank = (worker) => ["READY", "DRAINING", "UNREACHABLE", "GONE"].indexOf(worker.state);

function figuresOf({ cluster, jobs, workers }) {
  if (!cluster) return [["Workers", "–", ""], ["Ranks in use", "–", ""], ["Running", "–", ""], ["Waiting", "–", ""]];
  const all = [...workers.values()].filter((one) => one.state !== "GONE");
  const ready = all.filter((one) => one.state === "READY").length;
  const [ranks, free] = [number(cluster.ranks), number(cluster.freeRanks)];
  const waiting = jobs.filter((job) => job.state === "QUEUED");
  const oldest = Math.min(...waiting.map((job) => moment(job.createTime) ?? Date.now()));
  const pace = jobs.reduce((sum, job) => sum + (job.state === "RUNNING" ? number(job.progress?.samplesPerSecond) : 0), 0);
  return [
    ["Workers", count(all.length || cluster.workers), all.length === 0 ? "none has joined" : all.length === ready ? "all ready" : `${count(ready)} ready`],
    ["Ranks in use", `${count(ranks - free)} of ${count(ranks)}`, ranks ? percent((ranks - free) / ranks) : "none yet"],
    ["Running", count(jobs.filter((job) => job.state === "RUNNING").length), pace ? `${brief(pace)} samples/s` : "idle"],
    ["Waiting", count(waiting.length), waiting.length ? `oldest ${span((Date.now() - oldest) / 1000)}` : "nothing waits"],
    ["Coordinator", cluster.version ?? "", `up ${span((Date.now() - (moment(cluster.startTime) ?? Date.now())) / 1000)}`],
  ];
}

function cell(label, ...children) {
  return h("td", { "data-label": label }, ...children);
}

/** A cell of a figure. */
function figureCell(label) {
  return h("td", { "data-label": label, class: "number" });
}

function jobRow(first) {
  const link = h("a", { href: `#/jobs/${encodeURIComponent(first.name)}` }, first.name);
  const space = h("span", { class: "note" });
  const [mark, state] = badge();
  const reason = h("span", { class: "note reason" });
  const bar = h("progress", { max: "1", "aria-label": `Progress of ${first.name}` });
  const steps = h("span", { class: "note" });
  const [pace, left, ranks, priority] = ["Pace", "Left", "Ranks", "Priority"].map(figureCell);
  const row = h("tr", {}, h("th", { scope: "row" }, link, space), cell("State", mark, reason), cell("Progress", bar, steps), pace, left, ranks, priority);
  return [row, (job) => {
    text(space, job.spec?.namespace && job.spec.namespace !== "default" ? job.spec.namespace : "");
    state(job.state);
    text(reason, job.state === "RUNNING" ? "" : job.stateReason ?? "");
    const [step, total] = [number(job.progress?.step), number(job.progress?.totalSteps)];
    attribute(bar, "value", total ? step / total : 0);
    text(steps, total ? `${count(step)} of ${count(total)}` : "–");
    const running = job.state === "RUNNING" && job.progress;
    for (const [cell, empty] of [[pace, !running], [left, !running], [priority, !job.spec?.priority]]) cell.toggleAttribute("data-empty", empty);
    text(pace, running ? `${brief(number(job.progress.samplesPerSecond))} samples/s` : "–");
    text(left, running ? span(seconds(job.progress.eta)) : "–");
    text(ranks, job.plan?.seats?.length ?? job.spec?.resources?.ranks ?? "–");
    text(priority, job.spec?.priority ?? 0);
  }];
}

function endedRow(first) {
  const link = h("a", { href: `#/jobs/${encodeURIComponent(first.name)}` }, first.name);
  const [mark, state] = badge();
  const [steps, took, ended] = ["Steps", "Took", "Ended"].map(figureCell);
  const row = h("tr", {}, h("th", { scope: "row" }, link), cell("State", mark), steps, took, ended);
  return [row, (job) => {
    state(job.state);
    text(steps, count(job.progress?.step));
    const [begin, end] = [moment(job.startTime ?? job.createTime), moment(job.endTime)];
    text(took, end === null ? "–" : span((end - begin) / 1000));
    text(ended, ago(end, Date.now()));
  }];
}

function workerRow(first, state, draw) {
  const name = () => first.name;
  const [mark, show] = badge();
  const host = h("span", { class: "note" });
  const reason = h("span", { class: "note reason" });
  const devices = h("ul", { class: "devices" });
  const heard = figureCell("Last heard of");
  const take = (worker) => {
    state.workers.set(worker.name, worker);
    draw();
  };
  const drain = action("ClusterService/DrainWorker", "Drain", name, take);
  const undrain = action("ClusterService/UndrainWorker", "Undrain", name, take);
  const row = h("tr", {}, h("th", { scope: "row" }, first.name, host), cell("State", mark, reason), cell("Devices", devices), heard, h("td", { class: "steer" }, drain, undrain));
  return [row, (worker) => {
    show(worker.state);
    text(host, worker.host ?? "");
    text(reason, worker.state === "READY" ? "" : worker.stateReason ?? "");
    keyed(devices, worker.devices ?? [], (device) => device.index ?? 0, deviceMark);
    text(heard, worker.state === "READY" ? "live" : ago(moment(worker.heartbeatTime), Date.now()));
    const may = maySteerWorkers();
    shown(drain, may && worker.state === "READY");
    shown(undrain, may && worker.state === "DRAINING");
  }];
}

function deviceMark() {
  const link = h("a", {});
  const element = h("li", {}, link);
  return [element, (device) => {
    const ranks = device.ranks?.length ? device.ranks : [device.rank ?? 0];
    attribute(element, "data-busy", device.job ? "yes" : "no");
    if (device.job) link.href = `#/jobs/${encodeURIComponent(device.job)}`;
    else link.removeAttribute("href");
    text(link, device.job ? `${device.name} · ${device.job} · ${ranks.length > 1 ? "ranks" : "rank"} ${ranks.join(", ")}` : `${device.name} · free`);
  }];
}

