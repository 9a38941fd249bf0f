// What the curves draw over uPlot: levels, words, ends of lines, evaluated points. All positions in canvas pixels.
import { token } from "./series.js";

const FONT = () => `${11 * devicePixelRatio}px ${token("font")}`;

/** A horizontal line over the plot: the reference, or a limit. */
export function level(u, value, colour, dash) {
  if (value === null) return;
  const y = u.valToPos(value, "y", true);
  u.ctx.strokeStyle = colour;
  u.ctx.lineWidth = 1.25 * devicePixelRatio;
  u.ctx.setLineDash(dash.map((part) => part * devicePixelRatio));
  u.ctx.beginPath();
  u.ctx.moveTo(u.bbox.left, y);
  u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
  u.ctx.stroke();
}

/** Words that stay readable over lines; kept inside the plot from top to bottom. */
export function words(u, text, x, y, colour = token("ink-3"), align = "right") {
  const { ctx, bbox } = u;
  ctx.font = FONT();
  ctx.textAlign = align;
  ctx.lineWidth = 3 * devicePixelRatio;
  ctx.lineJoin = "round";
  ctx.setLineDash([]);
  ctx.strokeStyle = token("surface");
  ctx.fillStyle = colour;
  const inside = Math.min(Math.max(y, bbox.top + 9 * devicePixelRatio), bbox.top + bbox.height - 3 * devicePixelRatio);
  ctx.strokeText(text, x, inside);
  ctx.fillText(text, x, inside);
}

export function dot(u, x, y, colour, radius) {
  u.ctx.fillStyle = colour;
  u.ctx.beginPath();
  u.ctx.arc(x, y, radius * devicePixelRatio, 0, 2 * Math.PI);
  u.ctx.fill();
}

/** Names of lines ({name, colour, x, y} of their last points): beside the point where there is room, else over the upper and under the lower line. */
export function nameEnds(u, ends) {
  const ratio = devicePixelRatio;
  const edge = u.bbox.left + u.bbox.width;
  const top = Math.min(...ends.map((end) => end.y));
  u.ctx.font = FONT();
  for (const { name, colour, x, y } of ends) {
    const fits = x + 7 * ratio + u.ctx.measureText(name).width <= edge + 18 * ratio;
    if (fits) words(u, name, x + 7 * ratio, y + 4 * ratio, colour, "left");
    else words(u, name, edge, y + (y === top ? -8 : 16) * ratio, colour);
  }
}

/** Evaluated points ({x, y, lo, hi}), in order: straight from one to the next, never smoothed, each with its interval. */
export function evaluated(u, points, colour) {
  const { ctx } = u;
  ctx.strokeStyle = colour;
  ctx.setLineDash([]);
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  for (const { x, y } of points) ctx.lineTo(x, y);
  ctx.stroke();
  for (const { x, y, lo, hi } of points) {
    if (lo != null) {
      ctx.beginPath();
      ctx.moveTo(x, lo);
      ctx.lineTo(x, hi);
      ctx.stroke();
    }
    dot(u, x, y, colour, 3.5);
  }
}
