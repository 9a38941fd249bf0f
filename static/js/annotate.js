// Annotate: the next item is already in the page, so a key shows it at once while the verdict travels behind.
// Verdicts wait in an outbox that survives a reload; they are sent one after another, and each counts once.
import { swipes } from "./annotate-swipe.js";
import { Outbox } from "./annotate-outbox.js";

const holder = document.getElementById("item");
const form = document.getElementById("verdict-form");
const undoForm = document.getElementById("undo-form");
const next = document.getElementById("next");
const saved = document.getElementById("saved");
const waiting = document.getElementById("waiting");
const progress = document.getElementById("progress");
const pace = document.getElementById("pace");
const history = document.getElementById("history");
const base = holder.dataset.base;
const RETRY_MS = 3000;
const BEAT_MS = 120000;
const HISTORY = 20;
const SAID = { up: "Saved: desirable.", down: "Saved: undesirable.", skip: "Skipped." };
const LOST = "Someone else has this one now. Next.";

const csrf = form.elements.csrf_token.value;
const outbox = new Outbox(`kto-outbox:${holder.dataset.user}:${base}`);
let sending = false;
let offline = false;
let undoWanted = false;

const say = (words) => { saved.textContent = words; };
const slotOf = (root) => root.querySelector("[data-slot]")?.dataset.slot ?? "";
const shownSlot = () => slotOf(holder);
const number = (value) => value.toLocaleString("en");

// ---- time on screen: only while the page can be seen
let seenSince = 0;
let seenMs = 0;
const pauseClock = () => { if (seenSince) seenMs += performance.now() - seenSince; seenSince = 0; };
const runClock = () => { if (!seenSince && !document.hidden && shownSlot()) seenSince = performance.now(); };
function restartClock() { seenMs = 0; seenSince = 0; runClock(); }
document.addEventListener("visibilitychange", () => { if (document.hidden) pauseClock(); else runClock(); });

// ---- requests
class Refused extends Error {
  constructor(status) { super(`status ${status}`); this.status = status; }
}

async function send(action, fields) {
  const response = await fetch(`${base}/${action}`, {
    method: "POST", body: new URLSearchParams(fields), credentials: "same-origin",
    headers: { "X-CSRF-Token": csrf, "X-Annotate-Part": "1" },
  });
  if (response.redirected || response.status === 401 || response.status === 403) { location.reload(); throw new Refused(503); }
  if (!response.ok) throw new Refused(response.status);
  return response;
}
const post = async (action, fields) => new DOMParser().parseFromString(await (await send(action, fields)).text(), "text/html");
const part = (page, name) => page.querySelector(`body > [data-part="${name}"]`);
// What the page shows or keeps: not sent again.
const have = () => [shownSlot(), slotOf(next.content), ...outbox.slots()].filter(Boolean).slice(0, 8).map((slot) => ["have", slot]);

// ---- what is on screen
function show(article) {
  holder.replaceChildren(...(article ? [article] : []));
  const slot = shownSlot();
  form.elements.slot.value = slot;
  form.hidden = !slot;
  form.reset();
  holder.parentElement.scrollTop = 0;
  scrollTo(0, 0);
  restartClock();
}

function tell(done, total) {
  progress.querySelector("[data-done]").textContent = `${number(done)} of ${number(total)}`;
  Object.assign(progress.querySelector("[data-done]").dataset, { done, total });
  progress.querySelector("svg").setAttribute("aria-label", `${number(done)} of ${number(total)} rated`);
  progress.querySelector(".f-ink").setAttribute("width", total ? (100 * done / total).toFixed(2) : 0);
  document.getElementById("progress-short").textContent = `${number(done)} / ${number(total)}`;
}
function step(by) {
  const { done, total } = progress.querySelector("[data-done]").dataset;
  tell(Math.max(0, Number(done) + by), Number(total));
  pace.dataset.today = Math.max(0, Number(pace.dataset.today) + by);
  tellPace();
}
function tellPace() {
  const { today, seconds } = pace.dataset;
  pace.textContent = `${number(Number(today))} today${seconds ? `, ${Math.round(seconds)} s each` : ""}`;
}

function remember(value, title, ms) {
  const line = document.getElementById(`done-${value}`).content.firstElementChild.cloneNode(true);
  line.children[1].textContent = title;
  line.children[2].textContent = value === "skip" ? "skipped" : `${Math.round(ms / 1000)} s`;
  const list = history.querySelector("ol");
  list.prepend(line);
  list.hidden = false;
  history.querySelector(".history-none").hidden = true;
  while (list.children.length > HISTORY) list.lastElementChild.remove();
}

function count() {
  const kept = outbox.size();
  waiting.hidden = !offline || !kept;
  waiting.lastElementChild.textContent = `${kept} kept on this device`;
}

// Items that came go on screen where nothing is, else they wait behind it.
function take(page) {
  const known = new Set([shownSlot(), slotOf(next.content), ...outbox.slots()]);
  const items = [...part(page, "items").children].filter((article) => !known.has(article.dataset.slot));
  if (!shownSlot() && next.content.firstElementChild) show(next.content.firstElementChild);
  if (!shownSlot() && items.length) show(items.shift());
  if (!next.content.firstElementChild && items.length) next.content.replaceChildren(items[0]);
  const none = part(page, "none-left");
  if (none && !shownSlot()) { holder.replaceChildren(...none.children); form.hidden = true; }
}

// ---- verdicts
async function drain() {
  if (sending) return;
  sending = true;
  for (let verdict = outbox.first(); verdict; verdict = outbox.first()) {
    try {
      const page = await post("verdict", [...verdict.fields, ...have()]);
      outbox.remove(verdict.id);
      if (offline && !outbox.size()) { offline = false; say("Connected again, all saved."); }
      take(page);
    } catch (error) {
      if (error instanceof Refused && error.status < 500) { // lost lease or gone: the verdict is void, the work goes on
        outbox.remove(verdict.id);
        say(error.status === 409 ? LOST : "This verdict was not accepted. Next.");
        step(-1);
        await refill();
        count();
        continue;
      }
      offline = true;
      say(`Not connected. ${outbox.size()} kept on this device.`);
      setTimeout(drain, RETRY_MS);
      break;
    }
    count();
  }
  sending = false;
  count();
  if (undoWanted && !outbox.size()) { undoWanted = false; await takeBack(); }
}
addEventListener("online", drain);

async function refill() {
  try { take(await post("claim", have())); } catch { /* the next verdict or reload fills it */ }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const value = event.submitter?.value;
  const slot = shownSlot();
  if (!value || !slot) return;
  pauseClock();
  const unchanged = editor.value.trim() === original().trim();
  const fields = [...new FormData(form)].filter(([name, text]) => name !== "csrf_token" && text !== "" && !(name === "correction" && unchanged));
  outbox.add(slot, [...fields, ["value", value], ["took_ms", String(Math.round(seenMs))]]);
  remember(value, holder.querySelector("[data-title]").dataset.title, seenMs);
  step(1);
  const following = next.content.firstElementChild;
  say(offline ? `Not connected. ${outbox.size()} kept on this device.` : SAID[value] + (following ? " Next item loaded." : ""));
  show(following);
  count();
  drain();
});

async function takeBack() {
  let page;
  try { page = await post("undo", []); } catch { say("Not connected. Nothing was taken back."); return; }
  history.replaceChildren(...part(page, "history").childNodes);
  if (!part(page, "history").dataset.reopened) { say("There is nothing to undo."); return; }
  const shown = holder.querySelector("[data-slot]");
  const [first] = part(page, "items").children;
  show(first);
  next.content.replaceChildren(...(shown ? [shown] : []));
  step(-1);
  say("Taken back.");
}

// Undo right after a verdict: it waits for the verdict that is still on its way.
undoForm.addEventListener("submit", (event) => {
  event.preventDefault();
  undoWanted = outbox.size() > 0;
  if (!undoWanted) takeBack();
  else if (offline) { undoWanted = false; unsend(); }
});

// Without a connection the last verdict has not left this device: taking it back is dropping it.
function unsend() {
  const last = outbox.last();
  if (!last || sending) { say("Not connected. Nothing was taken back."); return; }
  outbox.remove(last.id);
  history.querySelector("li")?.remove();
  step(-1);
  count();
  say("Taken back. The item comes again when you are connected.");
}

// ---- correction: the edited answer; saving it is a verdict
const correct = document.getElementById("correct");
const correction = document.getElementById("correction");
const editor = correction.querySelector("textarea");
const original = () => holder.querySelector("template[data-text]")?.content.textContent ?? "";
function openEditor(open) {
  correction.hidden = !open;
  correct.setAttribute("aria-expanded", String(open));
  form.querySelector(".v-des").disabled = open;
  if (!open) { editor.value = ""; return; }
  editor.value = original();
  editor.focus();
}
correct.addEventListener("click", () => openEditor(correction.hidden));
editor.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { openEditor(false); correct.focus(); }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.querySelector(".v-und").click(); }
});
form.addEventListener("reset", () => openEditor(false));

// ---- keys inside the form
// A reason chosen by its number leaves the focus where it was, so that the space bar still skips.
form.addEventListener("click", (event) => {
  if (!event.isTrusted && event.target.matches("label.chip, input[type=checkbox]")) setTimeout(() => { if (document.activeElement?.matches("input[type=checkbox]")) document.activeElement.blur(); });
});
// A focused reason keeps its space bar, and Enter in the comment is no verdict.
form.addEventListener("keydown", (event) => {
  if (event.key === " " && event.target.matches("input[type=checkbox]")) event.stopPropagation();
  if (event.key === "Enter" && event.target.name === "comment") { event.preventDefault(); event.target.blur(); }
  if (event.key === "Escape" && event.target.name === "comment") event.target.blur();
});

swipes(holder, document.getElementById("swipe"), (right) => {
  if (shownSlot()) form.querySelector(right ? ".v-des" : ".v-und").click();
});

// ---- lease
async function beat() {
  if (document.hidden || !shownSlot()) return;
  try {
    const told = await (await send("heartbeat", [])).json();
    if (!outbox.size()) tell(told.done, told.total);
  } catch { /* the verdict will tell */ }
}
setInterval(beat, BEAT_MS);
addEventListener("pagehide", () => {
  if (!outbox.size()) navigator.sendBeacon(`${base}/release`, new URLSearchParams([["csrf_token", csrf]]));
});
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // its items were released

// ---- start
const started = progress.querySelector("[data-done]").dataset;
tell(Number(started.done), Number(started.total));
tellPace();
// A reload with verdicts still on the way: what they judge is not shown again.
const sent = new Set(outbox.slots());
if (sent.has(slotOf(next.content))) next.content.replaceChildren();
if (sent.has(shownSlot())) show(next.content.firstElementChild);
else restartClock();
count();
drain();
if (holder.querySelector("[data-start]")) { holder.replaceChildren(); refill(); } else if (!holder.querySelector("[data-none-left]") && !next.content.firstElementChild) refill();
