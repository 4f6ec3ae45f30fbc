// One job: its head with figures and what can be done, and a tab for each way to look at it.

import { ApiError, call, stream } from "./api.js";
import { action } from "./actions.js";
import { affinityTab } from "./affinity.js";
import { chartsTab } from "./charts.js";
import { announce, attribute, badge, fill, framed, h, keyed, shown, text } from "./dom.js";
import { brief, bytes, count, moment, number, percent, seconds, span } from "./format.js";
import { keep } from "./link.js";
import { logsTab } from "./logs.js";
import { planTab } from "./plan.js";
import { Series } from "./series.js";
import { maySteerJobs, whenCaller } from "./session.js";
import { specTab } from "./spec.js";
import { timelineTab } from "./timeline.js";

const TABS = [["", "Charts", chartsTab], ["affinity", "Affinity", affinityTab], ["plan", "Plan", planTab],
  ["timeline", "Timeline", timelineTab], ["logs", "Logs", logsTab], ["spec", "Job file", specTab]];
const OVER = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);
/** Goodput and the like have no event of their own. */
const REFRESH_MS = 10000;
const EVENTS = 2000;

export function jobView(name) {
  const draw = framed(() => render());
  const state = { name, job: null, events: [], sequence: "0", error: null, series: null };
  state.series = new Series((request) => call("JobService/GetJobSeries", { name, ...request }), () => draw());
  const head = heading(name, (job) => take(job));
  const body = h("div", { class: "tab" });
  const element = h("div", { class: "view" }, head.element, body);
  const tabs = new Map();
  let current = null;
  let refreshing = 0;

  function take(job) {
    if (state.job && state.job.state !== job.state) announce(`${name} is ${job.state.toLowerCase()}`);
    // What the watch brought may be newer than the answer.
    const before = state.job?.progress;
    if (before && number(before.step) > number(job.progress?.step) && state.job.uid === job.uid) job.progress = before;
    state.job = job;
    draw();
  }

  async function refresh(signal) {
    take(await call("JobService/GetJob", { name }, signal));
  }

  function event(one) {
    state.sequence = one.sequence;
    state.events.push(one);
    if (state.events.length > EVENTS) state.events.splice(0, state.events.length - EVENTS);
    if (one.evaluation) state.series.evaluation(one.evaluation);
    clearTimeout(refreshing);
    refreshing = setTimeout(() => refresh().catch(() => watch.restart()), 250);
    draw();
  }

  const watch = keep(async (signal, opened, seen) => {
    await refresh(signal);
    opened();
    await state.series.load().catch((error) => {
      // A job can be watched without its past; the charts begin now.
      if (error.code !== "UNIMPLEMENTED" && error.code !== "NOT_FOUND") throw error;
    });
    await stream("JobService/WatchJob", { name, afterSequence: state.sequence }, (message) => {
      seen();
      if (message.event) event(message.event);
      if (message.progress) {
        if (state.job) state.job.progress = message.progress;
        state.series.progress(message.progress);
      }
    }, signal);
    await refresh(signal);
    if (OVER.has(state.job.state)) return;
    throw new ApiError({ code: "UNAVAILABLE", message: "the coordinator ended the stream" });
  }, { failed: (error) => {
    state.error = error;
    draw();
  } });
  const timer = setInterval(() => {
    if (state.job && !OVER.has(state.job.state)) refresh().catch(() => watch.restart());
  }, REFRESH_MS);
  const release = whenCaller(draw);

  function render() {
    if (state.error && !state.job) {
      fill(element, missing(name, state.error));
      return;
    }
    head.update(state);
    current?.update?.(state);
  }

  return {
    element,
    state,
    /** The tab that is open. */
    get tab() {
      return current;
    },
    show(tab) {
      const [key, , make] = TABS.find(([one]) => one === tab) ?? TABS[0];
      let made = tabs.get(key);
      if (!made) {
        made = make(state);
        tabs.set(key, made);
      }
      if (current !== made) {
        current?.hide?.();
        fill(body, made.element);
        current = made;
      }
      made.shown?.();
      head.tab(key);
      draw();
    },
    stop() {
      watch.stop();
      clearInterval(timer);
      clearTimeout(refreshing);
      release();
      for (const made of tabs.values()) made.stop?.();
    },
  };
}

function missing(name, error) {
  const why = error.code === "NOT_FOUND" ? "There is no job of this name, or you may not see it." : error.text ?? error.message;
  return h("div", { class: "waiting" }, h("h1", {}, name), h("p", { role: "alert" }, why), h("p", {}, h("a", { href: "#/" }, "Back to the cluster")));
}

function heading(name, after) {
  const [mark, show] = badge();
  const reason = h("p", { class: "reason", hidden: true });
  const failure = h("p", { class: "failure", role: "alert", hidden: true });
  const bar = h("progress", { max: "1", class: "wide", "aria-label": "Progress" });
  const figures = h("dl", { class: "figures" });
  const steer = {
    pause: action("JobService/PauseJob", "Pause", () => name, after),
    resume: action("JobService/ResumeJob", "Resume", () => name, after),
    cancel: action("JobService/CancelJob", "Cancel", () => name, after, "danger"),
  };
  const links = TABS.map(([key, label]) => h("a", { href: `#/jobs/${encodeURIComponent(name)}${key ? `/${key}` : ""}`, "data-tab": key }, label));
  const nav = h("nav", { class: "tabs", "aria-label": "Views of the job" }, links);
  const element = h("div", { class: "head" },
    h("div", { class: "row" }, h("h1", {}, name), mark, h("div", { class: "steer" }, Object.values(steer))),
    reason, failure, bar, figures, nav);
  return {
    element,
    tab(key) {
      for (const link of links) attribute(link, "aria-current", link.dataset.tab === key ? "page" : null);
      // On a narrow page the tabs scroll; the open one should be in sight.
      links.find((link) => link.dataset.tab === key)?.scrollIntoView({ block: "nearest", inline: "nearest" });
    },
    update({ job }) {
      const may = maySteerJobs() && job !== null && !OVER.has(job.state);
      shown(steer.pause, may && ["QUEUED", "PREPARING", "RUNNING"].includes(job.state));
      shown(steer.resume, may && job.state === "PAUSED");
      shown(steer.cancel, may && job.state !== "CANCELLING");
      if (!job) return;
      show(job.state);
      shown(reason, Boolean(job.stateReason) && job.state !== "RUNNING" && !job.failure);
      text(reason, job.stateReason ?? "");
      shown(failure, Boolean(job.failure));
      text(failure, job.failure ? `${job.failure.code}: ${job.failure.message}` : "");
      const [step, total] = [number(job.progress?.step), number(job.progress?.totalSteps)];
      attribute(bar, "value", total ? step / total : 0);
      keyed(figures, figuresOf(job, step, total), ([label]) => label, () => {
        const [label, value, note] = [h("dt", {}), h("dd", {}), h("dd", { class: "note" })];
        return [h("div", {}, label, value, note), (words) => [label, value, note].forEach((part, at) => text(part, words[at]))];
      });
    },
  };
}

function figuresOf(job, step, total) {
  const progress = job.progress ?? {};
  const running = job.state === "RUNNING";
  const begin = moment(job.startTime ?? job.createTime);
  const end = moment(job.endTime) ?? Date.now();
  const tokens = number(progress.tokensPerSecond);
  const samples = number(progress.samplesPerSecond);
  const pace = tokens > 0 ? [`${brief(tokens)} tokens/s`, `${brief(samples)} samples/s`] : [`${brief(samples)} samples/s`, ""];
  const recoveries = job.recoveries?.length ?? 0;
  const cost = progress.exchange;
  const found = [
    ["Steps", count(step), total ? `of ${count(total)}, ${percent(step / total)}` : ""],
    running ? ["Left", span(seconds(progress.eta)), etaAt(seconds(progress.eta))]
      : [job.startTime || job.endTime ? "Took" : "Waiting", span((end - begin) / 1000), job.endTime ? "in all" : "so far"],
    ["Pace", running ? pace[0] : "–", running ? pace[1] : ""],
    ["Samples", brief(number(progress.samples)), number(progress.tokens) ? `${brief(number(progress.tokens))} tokens` : ""],
    ["Goodput", job.goodput === undefined ? "–" : percent(job.goodput, 1), recoveries ? `${recoveries} ${recoveries === 1 ? "recovery" : "recoveries"}` : "no recovery"],
  ];
  if (cost) found.push(["Exchange", `${brief(number(cost.exposedSecondsPerStep) * 1000)} ms`, `exposed · ${bytes(cost.bytesSentPerStep)} a step`]);
  return found;
}

function etaAt(left) {
  if (left === null) return "";
  const at = new Date(Date.now() + left * 1000);
  return left < 86400 ? `at ${at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}` : at.toDateString();
}
