// Evaluation pages: filters that act at once, samples that change in place, and the heat map's cursor.
import { startHeat } from "./heat.js";

// Selects of a filter form act at once; the button stays for those without script.
for (const form of document.querySelectorAll("form[data-auto-submit]")) {
  form.addEventListener("change", (event) => {
    if (event.target instanceof HTMLSelectElement) form.requestSubmit();
  });
}

let newest = 0;

/** Show the samples that `url` is the page of, without leaving this one. */
async function openSamples(url, { push = true } = {}) {
  const place = document.getElementById("samples");
  const turn = ++newest;
  place.setAttribute("aria-busy", "true");
  let html = "";
  try {
    const answer = await fetch(url, { headers: { "HX-Request": "true" }, credentials: "same-origin" });
    if (answer.ok) html = await answer.text();
  } catch { /* the full page says what is wrong */ }
  if (turn !== newest) return;
  if (!html.includes('id="samples"')) { location.assign(url); return; }
  const parsed = new DOMParser().parseFromString(html, "text/html").getElementById("samples");
  place.replaceWith(parsed);
  markRow(new URL(url, location.href).searchParams.get("category"));
  if (push) history.pushState({ samples: true }, "", url);
}

function markRow(category) {
  for (const link of document.querySelectorAll(".div-table a[data-samples]")) {
    const row = link.closest("tr");
    if (link.textContent === category) row.setAttribute("aria-selected", "true");
    else row.removeAttribute("aria-selected");
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-samples]");
  if (!link || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  openSamples(link.href);
});
addEventListener("popstate", () => {
  if (document.getElementById("samples")) location.reload();
});

const heat = document.querySelector("[data-heat]");
if (heat) startHeat(heat, openSamples);

// A link to one alarm finds it also where it is folded away.
function unfold() {
  const target = location.hash.startsWith("#alarm-") && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let folded = target.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  const form = target.querySelector("details.decide");
  if (form) form.open = true;
  target.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", unfold);
unfold();
