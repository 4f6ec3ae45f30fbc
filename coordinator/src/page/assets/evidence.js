// What the cosines of tasks' gradients say, in words: the same sentences as `espalier affinity`. Pure.

import { number, percent, plural, withSign } from "./format.js";

/** Steps before which nothing is claimed. */
const EARLY = 10;
/** A running mean forgets what is older than so many steps, and is as sure as a plain one of 2n - 1. */
const MEMORY = 100;
/** Pairs that are named one by one, of each kind. */
const NAMED = 8;

/** help, hurt or unclear: claimed only beyond two standard errors. */
export function relation(pair) {
  const steps = number(pair.steps);
  const sure = Math.min(steps, 2 * MEMORY - 1);
  const error = sure > 1 ? number(pair.deviation) / Math.sqrt(sure) : null;
  const cosine = number(pair.cosine);
  if (error === null || steps < EARLY || Math.abs(cosine) <= 2 * error) return "unclear";
  return cosine > 0 ? "help" : "hurt";
}

/** "cosine +0.31 ± 0.12 over 400 steps, 4 % of them in conflict". */
export function evidence(pair) {
  return `cosine ${withSign(number(pair.cosine))} ± ${number(pair.deviation).toFixed(2)} over ${plural(number(pair.steps), "step")}, ${percent(number(pair.conflicts))} of them in conflict`;
}

/** [{ relation, text }]: sentences on which tasks help or hurt which. */
export function findings(affinity) {
  const pairs = affinity.pairs ?? [];
  const related = (kind) => pairs.filter((pair) => relation(pair) === kind).sort((x, y) => Math.abs(number(y.cosine)) - Math.abs(number(x.cosine)));
  const sentences = [];
  const say = (kind, words) => sentences.push({ relation: kind, text: words });
  for (const kind of ["help", "hurt"]) {
    const found = related(kind);
    for (const pair of found.slice(0, NAMED)) say(kind, `${pair.a} and ${pair.b} ${kind} each other: ${evidence(pair)}`);
    if (found.length > NAMED) say(kind, `${plural(found.length - NAMED, "more pair")} of tasks ${kind} each other`);
  }
  const unclear = related("unclear");
  if (unclear.length <= 3) for (const pair of unclear) say("unclear", `${pair.a} and ${pair.b}: no clear relation: ${evidence(pair)}`);
  else say("unclear", `${plural(unclear.length, "pair")} of tasks: no clear relation`);
  const tasks = affinity.tasks?.length ?? 0;
  const unseen = (tasks * (tasks - 1)) / 2 - pairs.length;
  if (unseen > 0) say("unclear", `${plural(unseen, "pair")} of tasks ${unseen === 1 ? "was" : "were"} in no step together yet`);
  return sentences;
}
