// Calls of the coordinator: POST /api/SERVICE/METHOD with proto3 JSON, streams as a line of JSON a message.

import { Lines } from "./live.js";

/** What a call was refused with. `code` is a canonical one such as NOT_FOUND. */
export class ApiError extends Error {
  constructor({ code, message, reason, metadata, violations }) {
    super(message || code);
    Object.assign(this, { code, reason: reason ?? "", metadata: metadata ?? {}, violations: violations ?? [] });
  }

  /** What to show. */
  get text() {
    const fields = this.violations.map((one) => `${one.field}: ${one.description}`);
    const leader = this.reason === "NOT_LEADER" && this.metadata.leader ? ` The leader is ${this.metadata.leader}.` : "";
    return [this.message + leader, ...fields].join("\n");
  }
}

/** Most time of a call that answers once. */
const CALL_MS = 15000;

let onDenied = () => {};

/** Who is told when the coordinator wants to know who calls. */
export function whenDenied(listener) {
  onDenied = listener;
}

async function post(path, body, signal, method = "POST") {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: { "content-type": "application/json" },
      body: method === "POST" ? JSON.stringify(body) : undefined,
      credentials: "same-origin",
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError({ code: "UNAVAILABLE", message: "the coordinator can't be reached" });
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let failure = null;
  try {
    failure = JSON.parse(text).error;
  } catch {
    // A proxy's page, not the coordinator's answer.
  }
  const error = new ApiError(failure ?? { code: answer.status === 401 ? "UNAUTHENTICATED" : "UNAVAILABLE", message: `HTTP ${answer.status}` });
  if (error.code === "UNAUTHENTICATED" && path !== "/api/session") onDenied(error);
  throw error;
}

/** One answer. */
export async function call(method, body = {}, signal = undefined) {
  // A host that vanished answers nothing, not even that.
  const limit = AbortSignal.timeout(CALL_MS);
  try {
    const answer = await post(`/api/${method}`, body, signal ? AbortSignal.any([signal, limit]) : limit);
    return await answer.json();
  } catch (error) {
    if (error instanceof ApiError || signal?.aborted) throw error;
    throw new ApiError({ code: "UNAVAILABLE", message: `the coordinator did not answer ${method} in ${CALL_MS / 1000} s` });
  }
}

/** Calls `each` with every message of a stream, in order, and `opened` before; returns when it ended in order. */
export async function stream(method, body, each, signal, opened = () => {}) {
  const answer = await post(`/api/${method}`, body, signal);
  opened();
  const lines = new Lines();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError({ code: "UNAVAILABLE", message: "the connection to the coordinator broke" });
    }
    if (piece.done) return;
    for (const line of lines.push(piece.value)) {
      const message = JSON.parse(line);
      if (message.error?.code) throw new ApiError(message.error);
      each(message);
    }
  }
}

/** Logs in with a token; the coordinator answers with a cookie that scripts can't read. */
export async function logIn(token) {
  await post("/api/session", { token });
}

/** Logs out. */
export async function logOut() {
  await post("/api/session", null, undefined, "DELETE");
}
