// What a caller may do: a question where it can't be undone, the call, and how it went.

import { call } from "./api.js";
import { announce, h } from "./dom.js";

/** Asks in a dialog; resolves to whether the answer is yes. */
function confirmed(title, sentence, yes, kind) {
  const dialog = document.getElementById("ask");
  document.getElementById("ask-title").textContent = title;
  document.getElementById("ask-text").textContent = sentence;
  const button = document.getElementById("ask-yes");
  button.textContent = yes;
  button.className = `main ${kind}`;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** A note at the edge of the page that goes by itself; errors stay until they are closed. */
export function toast(message, wrong = false) {
  const close = h("button", { type: "button", class: "plain", "aria-label": "Close", onclick: () => note.remove() }, "×");
  const note = h("div", { class: wrong ? "toast wrong" : "toast", role: wrong ? "alert" : null }, h("span", {}, message), close);
  document.getElementById("toasts").append(note);
  if (!wrong) {
    announce(message);
    setTimeout(() => note.remove(), 6000);
  }
}

const VERBS = {
  PauseJob: { done: "pauses at the next step boundary" },
  ResumeJob: { done: "is back in the queue" },
  CancelJob: { done: "is being cancelled", title: "Cancel", yes: "Cancel the job", why: "The job ends for good and can't be resumed. Pausing keeps it." },
  DrainWorker: { done: "is being drained", title: "Drain", yes: "Drain", why: "The worker gets no new work, and its jobs move to other workers at a step boundary." },
  UndrainWorker: { done: "is open for work again" },
};

/** A button that makes one call about `name()`; `after(answer)` gets what it brought. */
export function action(method, label, name, after = () => {}, kind = "") {
  const verb = method.split("/")[1];
  const { done, title, yes, why } = VERBS[verb];
  const button = h("button", { type: "button", class: kind, "data-call": verb, onclick: async () => {
    if (title && !(await confirmed(`${title} ${name()}?`, why, yes, kind))) return;
    button.disabled = true;
    try {
      const answer = await call(method, { name: name() });
      toast(`${name()} ${done}`);
      after(answer);
    } catch (error) {
      toast(`${label} ${name()}: ${error.text ?? error.message}`, true);
    } finally {
      button.disabled = false;
    }
  } }, label);
  return button;
}
