// The page: its tabs, its theme, its key, and what the feed tells to whom.

import { hasKey, onKeyWanted, request, setKey } from "./api.js";
import { Chat } from "./chat.js";
import { assign, themeChanged } from "./colours.js";
import { $, setText, svg } from "./dom.js";
import { watch } from "./feed.js";
import { count, plural } from "./format.js";
import { Grid, readCells } from "./grid.js";
import { LiveView } from "./live.js";
import { tip } from "./tip.js";
import { TreeView } from "./tree.js";

const TABS = ["chat", "live", "tree"];

const chat = new Chat();
const live = new LiveView((id) => chat.isOwn(id));
const tree = new TreeView();
const mini = new Grid($("mini-grid"), { height: 250, rows: 8, tip });

function select(name, focus = false) {
  for (const each of TABS) {
    const tab = $(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    $(`panel-${each}`).hidden = each !== name;
  }
  if (focus) $(`tab-${name}`).focus();
  tip.hide();
  tree.show(name === "tree");
  history.replaceState(null, "", name === "chat" ? location.pathname : `#${name}`);
}

TABS.forEach((name, index) => {
  const tab = $(`tab-${name}`);
  tab.addEventListener("click", () => select(name));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: TABS.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(TABS[(to + TABS.length) % TABS.length], true);
  });
});
select(TABS.find((name) => location.hash === `#${name}`) ?? "chat");

// System, then light, then dark.
function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "system";
  const name = `Theme: ${{ system: "as the system’s", light: "light", dark: "dark" }[theme]}`;
  $("theme-button").setAttribute("aria-label", name);
  $("theme-button").title = name;
}

$("theme-button").addEventListener("click", () => {
  const root = document.documentElement;
  const next = { undefined: "light", light: "dark", dark: "" }[root.dataset.theme];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  try {
    if (next) localStorage.setItem("octavo.theme", next);
    else localStorage.removeItem("octavo.theme");
  } catch {
    // Blocked storage: the choice lasts as long as the page.
  }
  showTheme();
  themeChanged();
});
showTheme();

// One dialog for all requests that are refused at the same time.
let asking = null;

function askForKey(wasWrong) {
  $("key-button").hidden = false;
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    setText(
      $("key-note"),
      wasWrong
        ? "The server does not know this key. Another one?"
        : "This server answers only requests that carry a key. It stays in this tab until you close it.",
    );
    let given = false;
    const submit = (event) => {
      event.preventDefault();
      given = $("key").value.trim() !== "";
      if (given) setKey($("key").value.trim());
      $("key").value = "";
      dialog.close();
    };
    const cancel = () => dialog.close();
    $("key-form").addEventListener("submit", submit);
    $("key-cancel").addEventListener("click", cancel);
    dialog.addEventListener(
      "close",
      () => {
        $("key-form").removeEventListener("submit", submit);
        $("key-cancel").removeEventListener("click", cancel);
        asking = null;
        resolve(given);
      },
      { once: true },
    );
    dialog.showModal();
    $("key").focus();
  });
  return asking;
}

onKeyWanted(askForKey);
$("key-button").hidden = !hasKey();
$("key-button").addEventListener("click", async () => {
  if (await askForKey(false)) reconnect();
});

function showModels(names) {
  setText($("model-name"), names[0] ?? "");
  chat.models(names);
}

let numBlocks = 0;
let cells = [];

const reconnect = watch({
  status(state, text) {
    $("status").dataset.state = state;
    setText($("status-text"), text);
    if (state === "off") request("v1/models").then(async (response) => showModels((await response.json()).data.map(({ id }) => id)), () => {});
  },
  hello(hello) {
    numBlocks = hello.num_blocks;
    showModels(hello.models);
    live.begin(hello);
    tree.begin(hello);
  },
  state(state) {
    assign(state.running.map((sequence) => sequence.request_id));
    cells = readCells(state);
    mini.update(state, cells, numBlocks);
    const held = state.num_blocks - state.num_free;
    setText(
      $("mini-figures"),
      `${plural(held, "block")} held · ${count(state.num_known)} cached`,
    );
    live.state(state, cells);
  },
  second: (second) => live.second(second),
  tree: (event) => tree.update(event, cells),
});

// The frontispiece: an unfolded sheet of sixteen pages, in the order in which they lie when printed.
const PAGES = [
  [8, 9, 12, 5],
  [1, 16, 13, 4],
];
PAGES.forEach((row, y) =>
  row.forEach((page, x) => {
    const at = { x: 6 + x * 62, y: 6 + y * 69 };
    const leaf = svg("rect", { class: "leaf", x: at.x, y: at.y, width: 62, height: 69 });
    const number = svg("text", { class: y === 0 ? "upside-down" : "", x: at.x + 31, y: at.y + 41 });
    number.textContent = String(page);
    if (y === 0) number.setAttribute("transform", `rotate(180 ${at.x + 31} ${at.y + 34.5})`);
    const ink = svg("rect", { class: "ink", x: at.x + 10, y: at.y + (y === 0 ? 56 : 10), width: 42, height: 2.5 });
    $("plate-sheet").append(leaf, ink, number);
  }),
);
