// Who the caller is and what the caller may do; logging in where the coordinator asks for it.

import { call, logIn, logOut, whenDenied } from "./api.js";
import { attribute, shown, text } from "./dom.js";
import { Backoff, pause } from "./live.js";

const NOBODY = { name: "", role: "ROLE_UNSPECIFIED", method: "none" };
let caller = NOBODY;
const listeners = new Set();

/** May steer jobs of its namespaces. */
export const maySteerJobs = () => caller.role === "ADMIN" || caller.role === "SUBMITTER";
/** May drain workers. */
export const maySteerWorkers = () => caller.role === "ADMIN";

/** Calls `listener` whenever the caller is another. */
export function whenCaller(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function become(next) {
  caller = { ...NOBODY, ...next };
  const known = caller.name && caller.method !== "none";
  text(document.getElementById("caller"), known ? `${caller.name}, ${caller.role.toLowerCase()}` : "");
  shown(document.getElementById("leave"), caller.method === "token" || caller.method === "oidc");
  for (const listener of listeners) listener();
}

/** Asks the coordinator whom it takes us for, until it answers. */
async function ask() {
  const backoff = new Backoff();
  for (;;) {
    try {
      become(await call("ClusterService/WhoAmI"));
      return;
    } catch (error) {
      if (error.code === "UNAUTHENTICATED") return;
      if (error.code === "UNIMPLEMENTED" || error.code === "PERMISSION_DENIED") return become(NOBODY);
      await pause(backoff.next());
    }
  }
}

/** Wires the dialog and the button, and asks who we are. `again()` is called after a log-in. */
export function startSession(again) {
  const dialog = document.getElementById("log-in");
  const field = document.getElementById("token");
  const wrong = document.getElementById("log-in-wrong");
  whenDenied(() => {
    if (dialog.open) return;
    become(NOBODY);
    text(wrong, "");
    dialog.showModal();
    field.focus();
  });
  // Without a token there is nothing behind the dialog.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  document.getElementById("log-in-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    text(wrong, "");
    attribute(field, "aria-invalid", null);
    try {
      await logIn(field.value.trim());
      field.value = "";
      dialog.close();
      await ask();
      again();
    } catch (error) {
      text(wrong, error.text ?? error.message);
      attribute(field, "aria-invalid", "true");
      field.select();
    }
  });
  document.getElementById("leave").addEventListener("click", async () => {
    try {
      await logOut();
    } finally {
      location.reload();
    }
  });
  return ask();
}
