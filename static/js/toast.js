// Toasts: bottom left, six seconds, with Undo where there is one. Never for errors.
const LASTS_MS = 6000;

function arm(toast) {
  let timer = setTimeout(() => toast.remove(), LASTS_MS);
  const hold = () => clearTimeout(timer);
  const go = () => { timer = setTimeout(() => toast.remove(), LASTS_MS); };
  toast.addEventListener("pointerenter", hold);
  toast.addEventListener("pointerleave", go);
  toast.addEventListener("focusin", hold);
  toast.addEventListener("focusout", go);
  toast.querySelector("[data-toast-close]")?.addEventListener("click", () => toast.remove());
}

/** Shows `text`; `undo` (a function) adds an Undo button. */
export function toast(text, undo) {
  const box = document.getElementById("toasts");
  const item = document.createElement("div");
  item.className = "toast-k";
  const words = document.createElement("span");
  words.textContent = text;
  item.append(words);
  if (undo) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Undo";
    button.addEventListener("click", () => { item.remove(); undo(); });
    item.append(button);
  }
  box.replaceChildren(item);
  arm(item);
}

for (const item of document.querySelectorAll("[data-toast]")) arm(item);
