// What events and recoveries say of a job's time. Pure.

import { moment, number } from "./format.js";

/** The phases of a recovery, in order: name, where it begins, where it ends. */
const PHASES = [
  ["noticed", "faultTime", "detectedTime"],
  ["agreed", "detectedTime", "agreedTime"],
  ["connected", "agreedTime", "connectedTime"],
  ["restored", "connectedTime", "restoredTime"],
  ["first step", "restoredTime", "firstStepTime"],
];

/** [{ at, name, seconds }] of the phases whose ends are known, and the seconds of all. */
export function phases(recovery) {
  const parts = [];
  for (const [at, [name, begin, end]] of PHASES.entries()) {
    const [from, to] = [moment(recovery[begin]), moment(recovery[end])];
    if (from !== null && to !== null) parts.push({ at: at + 1, name, seconds: Math.max(0, (to - from) / 1000) });
  }
  return { parts, total: parts.reduce((sum, part) => sum + part.seconds, 0) };
}

/** [{ state, from, to }] in ms: which state a job was in, from its creation to its end or now. */
export function states(job, events, now) {
  const begin = moment(job.createTime) ?? now;
  const end = moment(job.endTime) ?? now;
  const found = [];
  let [state, from] = [events[0]?.sequence === undefined || number(events[0].sequence) === 1 ? "QUEUED" : job.state, begin];
  for (const event of events) {
    const at = moment(event.time);
    if (at === null || event.state === state || !event.state) continue;
    if (at > from) found.push({ state, from, to: at });
    [state, from] = [event.state, Math.max(from, at)];
  }
  if (end > from) found.push({ state, from, to: end });
  return found;
}

/** [{ generation, from, to }] in ms, by the events that brought a plan. */
export function generations(job, events, now) {
  const end = moment(job.endTime) ?? now;
  const starts = events.filter((event) => event.plan).map((event) => ({ generation: number(event.plan.generation), from: moment(event.time) }));
  return starts.map((one, at) => ({ ...one, to: starts[at + 1]?.from ?? end }));
}
