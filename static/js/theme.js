// The colour theme: follows the system until chosen, then the choice.
const KEY = "kto-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try { return localStorage.getItem(KEY) ?? "auto"; } catch { return "auto"; }
}

function show() {
  const choice = chosen();
  const dark = choice === "dark" || (choice === "auto" && system.matches);
  document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
  for (const button of document.querySelectorAll("[data-theme-set]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeSet === choice));
  }
  document.dispatchEvent(new CustomEvent("k:theme"));
}

function choose(choice) {
  try { choice === "auto" ? localStorage.removeItem(KEY) : localStorage.setItem(KEY, choice); } catch { /* see above */ }
  show();
}

document.addEventListener("click", (event) => {
  const set = event.target.closest("[data-theme-set]");
  if (set) choose(set.dataset.themeSet);
  if (event.target.closest("[data-theme-toggle]")) {
    choose(document.documentElement.dataset.bsTheme === "dark" ? "light" : "dark");
  }
});
system.addEventListener("change", show);
show();
