// Requests to this server, with the API key where it wants one.

import { load, save } from "./dom.js";

let key = load("sessionStorage", "key", "");
let askForKey = async () => false;

export class APIError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function setKey(value) {
  key = value;
  save("sessionStorage", "key", value);
}

export const hasKey = () => key !== "";

/** `ask(wasWrong)` resolves to whether there is a new key to try. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

/** A response that is OK; asks for a key as often as the server refuses the one that there is. */
export async function request(path, options = {}) {
  for (;;) {
    const used = key;
    const headers = { ...options.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) };
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.ok) return response;
    if (response.status === 401 && (used !== key || (await askForKey(used !== "")))) continue;
    throw new APIError(await errorText(response), response.status);
  }
}

async function errorText(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

/** The `data:` of each server-sent event of a response. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const event = text.slice(0, end);
        text = text.slice(end + 2);
        if (event.startsWith("data: ")) yield event.slice(6);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
