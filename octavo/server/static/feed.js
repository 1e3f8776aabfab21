// The engine's live state, while this page is looked at.

import { APIError, events, request } from "./api.js";

const LONGEST_WAIT = 10_000;

/** Calls `on[type](event)` for each event, and `on.status(state, text)`; reconnects for ever. */
export function watch(on) {
  let controller = null;
  let wait = 500;
  let timer = 0;

  async function run() {
    controller = new AbortController();
    const { signal } = controller;
    on.status("connecting", "connecting");
    try {
      const response = await request("octavo/live", { signal });
      for await (const data of events(response)) {
        const event = JSON.parse(data);
        wait = 500;
        if (event.type === "down") on.status("down", "the engine is down");
        else on.status("live", "live");
        on[event.type]?.(event);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof APIError && [401, 403, 404].includes(error.status)) {
        on.status("off", error.status === 401 ? "needs a key" : "no live view");
        return;
      }
    }
    if (signal.aborted) return;
    on.status("lost", "no connection");
    timer = setTimeout(run, wait);
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }

  function stop() {
    clearTimeout(timer);
    controller?.abort();
  }

  function start() {
    stop();
    run();
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      stop();
      on.status("paused", "paused");
    } else start();
  });
  window.addEventListener("pagehide", stop);
  start();
  return start;
}
