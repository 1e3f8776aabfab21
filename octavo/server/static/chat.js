// The Chat view: turns, the stream of an answer, and the parameters.

import { APIError, events, request } from "./api.js";
import { $, el, load, save, setText } from "./dom.js";
import { Folio } from "./folio.js";
import { count, plural, rate, seconds } from "./format.js";
import { markdown } from "./markdown.js";

const SUGGESTIONS = [
  "What is the capital of Norway?",
  "Explain how a book is bound, in three sentences.",
  "Write a short poem about paper.",
  "List five uses for a fountain pen.",
];
const FIELDS = ["system", "temperature", "top-p", "max-tokens", "seed"];
const MAX_KEPT_CHARACTERS = 500_000;

export class Chat {
  constructor() {
    this.turns = []; // { role, content, note, element, ... }
    this.controller = null;
    this.ids = new Set();
    this.#parameters();
    this.#composer();
    for (const text of SUGGESTIONS) {
      const button = el("button", { type: "button", class: "suggestion" }, text);
      button.addEventListener("click", () => this.send(text));
      $("suggestions").append(button);
    }
    $("new-chat").addEventListener("click", () => this.clear());
    for (const { role, content, note } of load("sessionStorage", "turns", [])) this.#add({ role, content, note });
    this.#showEmpty();
  }

  /** Whether the engine's request of this id was sent from here. */
  isOwn(id) {
    return [...this.ids].some((own) => id.includes(own));
  }

  models(names) {
    $("model").replaceChildren(...names.map((name) => el("option", {}, name)));
    $("model-field").hidden = names.length < 2;
  }

  clear() {
    this.stop();
    this.turns = [];
    $("turns").replaceChildren();
    this.#keep();
    this.#showEmpty();
    $("prompt").focus();
  }

  stop() {
    this.controller?.abort();
  }

  send(text) {
    if (this.controller || !text.trim()) return;
    this.#add({ role: "user", content: text.trim() });
    this.#answer();
  }

  #regenerate() {
    if (this.controller) return;
    while (this.turns.length && this.turns[this.turns.length - 1].role === "assistant") this.turns.pop().element.remove();
    this.#answer();
  }

  #parameters() {
    const saved = load("localStorage", "parameters", {});
    for (const name of FIELDS) {
      const field = $(name);
      if (typeof saved[name] === "string") field.value = saved[name];
      const shown = $(`${name}-value`);
      const show = () => shown && setText(shown, Number(field.value).toFixed(2));
      show();
      field.addEventListener("input", () => {
        show();
        save("localStorage", "parameters", Object.fromEntries(FIELDS.map((each) => [each, $(each).value])));
      });
    }
    const wide = matchMedia("(min-width: 62rem)");
    const fold = () => ($("parameters").open = wide.matches);
    wide.addEventListener("change", fold);
    fold();
  }

  #composer() {
    const prompt = $("prompt");
    const fit = () => {
      prompt.style.height = "auto";
      prompt.style.height = `${Math.min(prompt.scrollHeight + 2, 200)}px`;
      prompt.style.overflowY = prompt.scrollHeight > 200 ? "auto" : "hidden";
    };
    fit();
    prompt.addEventListener("input", fit);
    prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        $("composer").requestSubmit();
      }
    });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.controller) return;
      const text = prompt.value;
      prompt.value = "";
      fit();
      this.send(text);
    });
    $("stop").addEventListener("click", () => this.stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.stop();
    });
  }

  #body() {
    const messages = this.turns.map(({ role, content }) => ({ role, content }));
    const system = $("system").value.trim();
    if (system) messages.unshift({ role: "system", content: system });
    const body = {
      model: $("model").value || undefined,
      messages,
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
      temperature: Number($("temperature").value),
      top_p: Number($("top-p").value),
    };
    if ($("max-tokens").value !== "") body.max_tokens = Number($("max-tokens").value);
    if ($("seed").value !== "") body.seed = Number($("seed").value);
    return body;
  }

  async #answer() {
    const body = this.#body();
    const turn = this.#add({ role: "assistant", content: "" });
    const id = `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16).padStart(8, "0")}`;
    this.ids.add(id);
    this.controller = new AbortController();
    this.#busy(true);
    turn.element.setAttribute("aria-busy", "true");
    const began = performance.now();
    let first = 0;
    let tokens = 0;
    let usage = null;
    let finish = null;
    let frame = 0;
    const note = (ended) => {
      const parts = [plural(tokens, "token")];
      const now = performance.now();
      if (tokens > 1 && now > first) parts.push(`${rate((1000 * (tokens - 1)) / (now - first))} per second`);
      if (first) parts.push(`first after ${seconds((first - began) / 1000)}`);
      const cached = usage?.prompt_tokens_details?.cached_tokens;
      if (usage) parts.push(`prompt ${count(usage.prompt_tokens)}${cached ? `, ${count(cached)} from the cache` : ""}`);
      if (ended === "length") parts.push("stopped at its most tokens");
      if (ended === "stopped") parts.push("stopped");
      turn.note = parts.join(" · ");
      setText(turn.noteElement, turn.note);
    };
    const show = () => {
      frame = 0;
      this.#render(turn);
      turn.folio.show(tokens);
      note(null);
      this.#follow();
    };
    try {
      const response = await request("v1/chat/completions", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Request-Id": id },
        body: JSON.stringify(body),
        signal: this.controller.signal,
      });
      for await (const data of events(response)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new APIError(chunk.error.message, chunk.error.code);
        if (chunk.usage) {
          usage = chunk.usage;
          if (usage.completion_tokens > 0 && !first) first = performance.now();
          tokens = usage.completion_tokens;
        }
        const [choice] = chunk.choices;
        if (choice) {
          turn.content += choice.delta.content ?? "";
          finish = choice.finish_reason ?? finish;
        }
        frame ||= requestAnimationFrame(show);
      }
      this.#announce(turn.content);
    } catch (error) {
      if (this.controller.signal.aborted) finish = "stopped";
      else turn.error = error instanceof APIError ? error.message : "The connection to the server was lost.";
    }
    cancelAnimationFrame(frame);
    show();
    note(finish);
    turn.folio.show(tokens);
    this.controller = null;
    turn.element.removeAttribute("aria-busy");
    if (turn.error) this.#fail(turn);
    this.#busy(false);
    this.#keep();
    setTimeout(() => this.ids.delete(id), 5000);
  }

  #fail(turn) {
    const retry = el("button", { type: "button", class: "quiet" }, "Try again");
    retry.addEventListener("click", () => this.#regenerate());
    turn.element.append(el("p", { class: "error", role: "alert" }, turn.error, retry));
    setText(turn.noteElement, "");
    // What failed is no part of the conversation.
    if (!turn.content) turn.element.classList.add("failed");
    this.#follow();
  }

  #add(turn) {
    const mine = turn.role === "user";
    turn.body = el("div", { class: "body" });
    turn.folio = new Folio();
    turn.noteElement = el("span", { class: "note" }, turn.note ?? "");
    const copy = el("button", { type: "button", class: "quiet small" }, "Copy");
    copy.addEventListener("click", () => this.#copy(copy, turn));
    const again = el("button", { type: "button", class: "quiet small again" }, "Regenerate");
    again.addEventListener("click", () => this.#regenerate());
    turn.element = el(
      "li",
      { class: `turn ${turn.role}` },
      el("h3", { class: "hidden" }, mine ? "You" : "Answer"),
      turn.body,
      mine ? null : el("div", { class: "foot" }, turn.folio.element, turn.noteElement, el("span", { class: "actions" }, copy, again)),
    );
    this.turns.push(turn);
    this.#render(turn);
    $("turns").append(turn.element);
    this.#showEmpty();
    this.#follow(true);
    return turn;
  }

  #render(turn) {
    if (turn.role === "user") turn.body.textContent = turn.content;
    else turn.body.replaceChildren(...markdown(turn.content));
  }

  async #copy(button, turn) {
    try {
      await navigator.clipboard.writeText(turn.content);
      setText(button, "Copied");
    } catch {
      // Plain http on another machine has no clipboard: select the text instead.
      getSelection().selectAllChildren(turn.body);
      setText(button, "Selected");
    }
    setTimeout(() => setText(button, "Copy"), 1500);
  }

  /** Keep the end in sight, unless the reader has scrolled up. */
  #follow(always = false) {
    const scroll = $("scroll");
    if (always || scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120) scroll.scrollTop = scroll.scrollHeight;
  }

  #busy(is) {
    $("send").hidden = is;
    $("stop").hidden = !is;
    $("turns").classList.toggle("busy", is);
  }

  #announce(text) {
    setText($("announcer"), "");
    requestAnimationFrame(() => setText($("announcer"), text));
  }

  #showEmpty() {
    $("empty").hidden = this.turns.length > 0;
  }

  #keep() {
    const turns = this.turns.filter((turn) => turn.content).map(({ role, content, note }) => ({ role, content, note }));
    const size = turns.reduce((sum, turn) => sum + turn.content.length, 0);
    save("sessionStorage", "turns", size > MAX_KEPT_CHARACTERS ? [] : turns);
  }
}
