// Annotate: the next item is already in the page, so a key shows it at once while the verdict travels behind.
// Verdicts wait in an outbox that survives a reload; they are sent one after another, and each counts once.

const holder = document.getElementById("item");
const form = document.getElementById("verdict-form");
const undoForm = document.getElementById("undo-form");
const next = document.getElementById("next");
const saved = document.getElementById("saved");
const base = holder.dataset.base;
const OUTBOX = `kto-outbox:${base}`;
const RETRY_MS = 3000;
const BEAT_MS = 120000;
const SAID = { up: "Saved: desirable.", down: "Saved: undesirable.", skip: "Skipped." };
const LOST = "Someone else has this one now. Next.";

const csrf = form.elements.csrf_token.value;
const load = () => { try { return JSON.parse(localStorage.getItem(OUTBOX)) ?? []; } catch { return []; } };
const keep = () => { try { localStorage.setItem(OUTBOX, JSON.stringify(outbox)); } catch { /* memory only */ } };
const outbox = load();
let sending = false;
let offline = false;
let undoWanted = false;

const say = (words) => { saved.textContent = words; };
const shownSlot = () => holder.querySelector("[data-slot]")?.dataset.slot ?? "";

class Refused extends Error {
  constructor(status) { super(`status ${status}`); this.status = status; }
}

async function post(action, fields) {
  const body = new URLSearchParams(fields);
  const response = await fetch(`${base}/${action}`, {
    method: "POST", body, headers: { "X-CSRF-Token": csrf, "X-Annotate-Part": "1" }, credentials: "same-origin",
  });
  if (response.redirected || response.status === 401 || response.status === 403) { location.reload(); throw new Refused(403); }
  if (!response.ok) throw new Refused(response.status);
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

const part = (page, name) => page.querySelector(`[data-part="${name}"]`);

function show(article) {
  holder.replaceChildren(article);
  const slot = shownSlot();
  form.elements.slot.value = slot;
  form.hidden = !slot;
  form.reset();
  holder.parentElement.scrollTop = 0;
}

// `whole`: the answer says what belongs on screen (start, undo); else only fill what the person waits for.
function apply(page, whole) {
  document.getElementById("progress").replaceChildren(...part(page, "progress").childNodes);
  document.getElementById("history").replaceChildren(...part(page, "history").childNodes);
  const waiting = new Set(outbox.map((verdict) => verdict.slot));
  const fresh = (name) => [...part(page, name).children].filter((node) => !waiting.has(node.dataset.slot));
  const items = [...fresh("item"), ...fresh("next")];
  if ((whole || !shownSlot()) && items.length) show(items.shift());
  const following = items.find((node) => node.dataset.slot && node.dataset.slot !== shownSlot());
  next.content.replaceChildren(...(following ? [following] : []));
}

async function drain() {
  if (sending) return;
  sending = true;
  while (outbox.length) {
    const verdict = outbox[0];
    try {
      const page = await post("verdict", [...verdict.fields, ["on_screen", shownSlot()]].filter(([, value]) => value !== ""));
      outbox.shift();
      keep();
      if (!outbox.length && offline) say("Connected again, all saved.");
      offline = outbox.length > 0 && offline;
      apply(page, false);
    } catch (error) {
      if (error instanceof Refused && error.status < 500) { // lost lease or gone: the verdict is void, the work goes on
        outbox.shift();
        keep();
        say(LOST);
        await refill();
        continue;
      }
      offline = true;
      say(`Not connected. ${outbox.length} kept on this device.`);
      setTimeout(drain, RETRY_MS);
      break;
    }
  }
  sending = false;
  if (undoWanted && !outbox.length) {
    undoWanted = false;
    await takeBack();
  }
}

async function refill() {
  try {
    apply(await post("claim", shownSlot() ? [["on_screen", shownSlot()]] : []), false);
  } catch { /* the next verdict or reload fills it */ }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const value = event.submitter?.value;
  const slot = shownSlot();
  if (!value || !slot) return;
  const fields = [...new FormData(form)].filter(([name]) => name !== "csrf_token");
  outbox.push({ slot, fields: [...fields, ["value", value]] });
  keep();
  say(SAID[value]);
  const following = next.content.firstElementChild;
  if (following) show(following);
  else { holder.replaceChildren(); form.hidden = true; }
  drain();
});

async function takeBack() {
  try {
    const before = shownSlot();
    apply(await post("undo", []), true);
    say(before === shownSlot() ? "There is nothing to undo." : "Taken back.");
  } catch { say("Not connected. Nothing was taken back."); }
}

// Undo right after a verdict: it waits for the verdict that is still on its way.
undoForm.addEventListener("submit", (event) => {
  event.preventDefault();
  undoWanted = outbox.length > 0;
  if (!undoWanted) takeBack();
});

// A reason chosen by its number leaves the focus where it was, so that the space bar still skips.
form.addEventListener("click", (event) => {
  if (!event.isTrusted && event.target.matches("label.chip, input[type=checkbox]")) setTimeout(() => document.activeElement?.blur());
});
// A focused reason keeps its space bar, and Enter in the comment is no verdict.
form.addEventListener("keydown", (event) => {
  if (event.key === " " && event.target.matches("input[type=checkbox]")) event.stopPropagation();
  if (event.key === "Enter" && event.target.name === "comment") { event.preventDefault(); event.target.blur(); }
  if (event.key === "Escape" && event.target.name === "comment") event.target.blur();
});

// Swipe on a phone: right is desirable, left undesirable. Not over what scrolls sideways itself.
let touch = null;
holder.addEventListener("touchstart", (event) => {
  touch = event.target.closest("pre, table") || event.touches.length > 1 ? null : event.touches[0];
}, { passive: true });
holder.addEventListener("touchend", (event) => {
  if (!touch || !shownSlot()) return;
  const end = event.changedTouches[0];
  const [x, y] = [end.clientX - touch.clientX, end.clientY - touch.clientY];
  touch = null;
  if (Math.abs(x) > 96 && Math.abs(x) > 3 * Math.abs(y)) form.querySelector(x > 0 ? ".v-des" : ".v-und").click();
}, { passive: true });

setInterval(() => { if (!document.hidden && shownSlot()) post("heartbeat", []).catch(() => {}); }, BEAT_MS);
addEventListener("pagehide", () => {
  if (!outbox.length) navigator.sendBeacon(`${base}/release`, new URLSearchParams([["csrf_token", csrf]]));
});

// A reload with verdicts still on the way: what they judge is not shown again.
if (outbox.some((verdict) => verdict.slot === shownSlot())) { holder.replaceChildren(); form.hidden = true; }
drain();
if (holder.querySelector("[data-start]") || (shownSlot() && !next.content.firstElementChild)) refill();
