// Runs before the first paint, so that a chosen theme never flashes: the only script that blocks.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("kto-theme"); } catch { /* storage can be switched off */ }
  const dark = chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
})();
