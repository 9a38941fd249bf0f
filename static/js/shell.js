// What every page does: menu, dialogs, copy, keys. Bound to data attributes; no handler stands in the markup.
import { toast } from "./toast.js";

const KEYS_OFF = "kto-keys-off";
const stored = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

// ---- rail on a phone
const menu = document.querySelector("[data-menu]");
const rail = document.getElementById("rail");
function showMenu(open) {
  rail.classList.toggle("open", open);
  menu.setAttribute("aria-expanded", String(open));
  (open ? rail.querySelector("a[aria-current], a") : menu).focus();
}
menu?.addEventListener("click", () => showMenu(!rail.classList.contains("open")));
document.addEventListener("click", (event) => {
  if (rail?.classList.contains("open") && !event.target.closest("#rail, [data-menu]")) showMenu(false);
  for (const details of document.querySelectorAll("details[data-menu-details][open]")) {
    if (!details.contains(event.target)) details.open = false;
  }
});

// ---- dialogs, copy, back
async function copy(button) {
  const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard without HTTPS: select it, the person's own copy key does the rest
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    toast("Selected. Copy it with your keyboard.");
    return;
  }
  const word = button.querySelector("span") ?? button;
  const before = word.textContent;
  word.textContent = "Copied";
  setTimeout(() => { word.textContent = before; }, 1600);
}

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog)?.showModal();
  if (event.target.closest("[data-close]")) event.target.closest("dialog")?.close();
  if (event.target instanceof HTMLDialogElement) event.target.close(); // a click on the backdrop
  const copier = event.target.closest("[data-copy]");
  if (copier) copy(copier);
  if (event.target.closest("[data-back]")) history.back();
  if (event.target.closest('[aria-disabled="true"]')) event.preventDefault();
});
if (history.length > 1) for (const button of document.querySelectorAll("[data-back]")) button.hidden = false;

// A button says what it does while its form is on the way, and a second click does nothing.
document.addEventListener("submit", (event) => {
  const form = event.target;
  const button = event.submitter;
  if (form.method !== "post" || event.defaultPrevented) return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "1";
  if (button?.dataset.busy) {
    button.style.minWidth = `${button.offsetWidth}px`;
    button.lastChild.textContent = button.dataset.busy;
  }
});
addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });

// ---- keys
function typing(target) {
  return target.closest?.("input:not([type=radio], [type=checkbox], [type=range]), textarea, select, [contenteditable]");
}

function press(button) {
  button.classList.add("hit");
  setTimeout(() => button.classList.remove("hit"), 160);
  button.click();
}

let jump = 0; // when `g` was pressed
function onKey(event) {
  if (event.key === "Escape" && rail?.classList.contains("open")) { showMenu(false); return; }
  const off = stored(KEYS_OFF) || event.ctrlKey || event.metaKey || event.altKey || typing(event.target);
  if (off || document.querySelector("dialog[open]")) return;
  const name = event.key === " " ? "Space" : event.key;
  if (name === "?") { document.getElementById("k-keys")?.showModal(); return; }
  if (name === "g") { jump = Date.now(); return; }
  if (Date.now() - jump < 1200) {
    jump = 0;
    const link = document.querySelector(`[data-jump="${CSS.escape(name)}"]`);
    if (link) { event.preventDefault(); location.assign(link.href); return; }
  }
  if (name === "Space" && event.target.closest?.("button, a, summary, [role=button]")) return;
  if (name === "[" || name === "]") {
    const tabs = [...document.querySelectorAll(".tabs a")];
    tabs[tabs.findIndex((tab) => tab.getAttribute("aria-current")) + (name === "]" ? 1 : -1)]?.click();
    return;
  }
  for (const element of document.querySelectorAll("[data-key]")) {
    if (!element.dataset.key.split(" ").includes(name) || element.disabled) continue;
    event.preventDefault();
    if (element.matches("input, textarea, select")) element.focus();
    else press(element);
    return;
  }
}
document.addEventListener("keydown", onKey);

const keysToggle = document.querySelector("[data-keys-toggle]");
if (keysToggle) {
  keysToggle.checked = !stored(KEYS_OFF);
  keysToggle.addEventListener("change", () => {
    try { keysToggle.checked ? localStorage.removeItem(KEYS_OFF) : localStorage.setItem(KEYS_OFF, "1"); } catch { /* not kept */ }
  });
}

// The sheet lists the keys of this page from its own elements: data-key with data-key-name.
const pageKeys = document.querySelector("[data-page-keys]");
const named = [...document.querySelectorAll("[data-key][data-key-name]")];
if (pageKeys && named.length) {
  for (const element of named) {
    const row = document.createElement("div");
    const keys = document.createElement("dt");
    for (const key of element.dataset.key.split(" ")) {
      const kbd = document.createElement("kbd");
      kbd.textContent = { ArrowLeft: "←", ArrowRight: "→", Backspace: "⌫" }[key] ?? (key.length === 1 ? key.toUpperCase() : key);
      keys.append(kbd, " ");
    }
    const words = document.createElement("dd");
    words.textContent = element.dataset.keyName;
    row.append(keys, words);
    pageKeys.querySelector("dl").append(row);
  }
  pageKeys.hidden = false;
}

// The first field that does not fit, or the summary above it, has the focus.
document.querySelector("[data-focus]")?.focus();
