// Values of the API (proto3 JSON) as numbers and moments, and both in words. Pure.

/** A number of the API: 64-bit integers and NaN come as text, absent ones are 0. */
export function number(value) {
  return value === undefined || value === null || value === "" ? 0 : Number(value);
}

/** Milliseconds since 1970 of a timestamp; null if it is absent. */
export function moment(timestamp) {
  if (!timestamp) return null;
  // Nanoseconds are more than Date reads everywhere.
  const ms = Date.parse(timestamp.replace(/(\.\d{3})\d+/, "$1"));
  return Number.isNaN(ms) ? null : ms;
}

/** Seconds of a duration such as "3.5s"; null if it is absent. */
export function seconds(duration) {
  if (!duration) return null;
  const value = Number.parseFloat(duration);
  return Number.isFinite(value) ? value : null;
}

/** A figure with four digits that count: 0.0123, 1.234, 1,234, 1.2e-7. */
export function figure(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-4 || size >= 1e9) return signed(value.toExponential(2));
  if (size >= 1000) return signed(Math.round(value).toLocaleString("en-US"));
  const digits = size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4;
  return signed(value.toFixed(digits));
}

/** A whole number with its thousands apart. */
export function count(value) {
  return signed(Math.round(number(value)).toLocaleString("en-US"));
}

/** A share between 0 and 1 in percent. */
export function percent(share, digits = 0) {
  // The sign stays with its number at the end of a line.
  return `${signed((share * 100).toFixed(digits))}\u00a0%`;
}

/** A number with its sign: +0.31, −0.05. */
export function withSign(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

function signed(text) {
  return text.replace(/^-/, "−");
}

/** Three digits that count: 817, 33.8k, 4.20. */
export function brief(value) {
  const size = Math.abs(value);
  for (const [unit, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return signed((value / unit).toPrecision(size / unit >= 999.5 ? 4 : 3) + sign);
  }
  return size === 0 ? "0" : signed(size >= 999.5 ? value.toFixed(0) : value.toPrecision(3));
}

/** A short form for the marks of an axis: 1.5k, 20M. */
export function short(value) {
  const size = Math.abs(value);
  for (const [unit, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return signed(trimmed((value / unit).toFixed(2)) + sign);
  }
  if (size !== 0 && size < 1e-3) return signed(value.toExponential(1).replace(".0e", "e"));
  return signed(trimmed(value.toFixed(size < 1 ? 4 : 2)));
}

/** The marks of an axis in short form, all with as many digits behind the point: 1.0, 1.5, 2.0. */
export function shorts(values) {
  const words = values.map(short);
  const parts = words.map((one) => /^([^.a-z]+)(?:\.(\d+))?([GMk]?)$/i.exec(one));
  const units = new Set(parts.filter((part) => part && part[0] !== "0").map((part) => part[3]));
  if (units.size > 1 || parts.includes(null)) return words;
  const digits = Math.max(0, ...parts.map((part) => part[2]?.length ?? 0));
  return parts.map(([all, whole, rest = "", unit]) => (all === "0" || !digits ? all : `${whole}.${rest.padEnd(digits, "0")}${unit}`));
}

function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** Bytes with a unit of 1024. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let size = number(value);
  while (size >= 1024 && at < units.length - 1) {
    size /= 1024;
    at += 1;
  }
  return `${size >= 100 || at === 0 ? Math.round(size) : size.toFixed(1)} ${units[at]}`;
}

/** A length of time: 350 ms, 4.2 s, 3 min 12 s, 2 h 05 min, 3 d 4 h. */
export function span(secs) {
  if (secs === null || !Number.isFinite(secs)) return "–";
  if (secs < 0) return "0 s";
  if (secs < 1) return `${Math.round(secs * 1000)} ms`;
  if (secs < 10) return `${secs.toFixed(1)} s`;
  const whole = Math.round(secs);
  if (whole < 60) return `${whole} s`;
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

/** How long ago: "just now", "12 s ago". */
export function ago(ms, now) {
  if (ms === null) return "never";
  const secs = (now - ms) / 1000;
  return secs < 2 ? "just now" : `${span(Math.floor(secs))} ago`;
}

/** The time of day, with the date where it is not today's. */
export function clock(ms, now = Date.now()) {
  if (ms === null) return "–";
  const date = new Date(ms);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date(now).toDateString()
    ? time
    : `${date.getFullYear()}-${String(date.getMonth() + 1).padStart(2, "0")}-${String(date.getDate()).padStart(2, "0")} ${time}`;
}

/** A word of the API such as ON_NON_FINITE as people write it: "on non finite". */
export function word(name) {
  return (name ?? "").toLowerCase().replaceAll("_", " ");
}

/** "1 step", "2 steps". */
export function plural(n, noun) {
  return `${count(n)} ${noun}${Number(n) === 1 ? "" : "s"}`;
}
