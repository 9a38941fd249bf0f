// Swipe on a phone: right is desirable, left undesirable. A thumb grows at the edge; it fills where letting go decides, and
// moving back cancels. Not over what scrolls sideways itself.
const DECIDES = 96;
const SHOWS = 16;

export function swipes(holder, hint, decide) {
  let start = null;
  let moved = 0;

  function draw() {
    const share = Math.min(1, Math.max(0, (Math.abs(moved) - SHOWS) / (DECIDES - SHOWS)));
    hint.style.setProperty("--swipe", share.toFixed(2));
    hint.dataset.side = share === 0 ? "" : moved > 0 ? "des" : "und";
    hint.classList.toggle("decides", share === 1);
    const card = holder.querySelector(".completion-block");
    if (card) card.style.translate = share ? `${Math.sign(moved) * share * 24}px` : "";
  }
  function end(counts) {
    const right = moved > 0;
    const decided = counts && start && Math.abs(moved) >= DECIDES;
    start = null;
    moved = 0;
    draw();
    if (decided) decide(right);
  }

  holder.addEventListener("touchstart", (event) => {
    const blocked = event.touches.length > 1 || event.target.closest("pre, table, input, summary, a");
    start = blocked ? null : { x: event.touches[0].clientX, y: event.touches[0].clientY };
    if (blocked) end(false);
  }, { passive: true });
  holder.addEventListener("touchmove", (event) => {
    if (!start) return;
    const [x, y] = [event.touches[0].clientX - start.x, event.touches[0].clientY - start.y];
    if (Math.abs(y) > 40 && Math.abs(y) > Math.abs(x)) { end(false); return; } // they scroll
    moved = Math.abs(x) > 2 * Math.abs(y) ? x : 0;
    draw();
  }, { passive: true });
  holder.addEventListener("touchend", () => end(true), { passive: true });
  holder.addEventListener("touchcancel", () => end(false), { passive: true });
}
