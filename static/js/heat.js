// The heat map's cursor: hover or arrow keys name a cell, Enter or a click opens its samples, n and N go from alarm to alarm,
// and the search field dims what it does not find. Figures come from the page's own `cells` address, once.
const SVG = "http://www.w3.org/2000/svg";
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const figure = (value, digits) => (value < 0 ? "−" : value > 0 ? "+" : "") + (Math.abs(value) / 10 ** digits).toFixed(digits);

function shape(name, cls, parent) {
  const element = document.createElementNS(SVG, name);
  element.setAttribute("class", cls);
  parent.append(element);
  return element;
}

class Heat {
  constructor(region, data, open) {
    Object.assign(this, { region, data, open });
    this.picture = region.querySelector("svg");
    this.tip = region.querySelector("[data-heat-tip]");
    this.say = document.querySelector("[data-heat-say]");
    this.domain = data.blocks.flatMap(([name, , count]) => Array(count).fill(name));
    this.x = data.blocks.flatMap(([, x, count]) => Array.from({ length: count }, (_, index) => x + index * data.cell));
    this.found = data.names.map(() => true);
    this.column = -1;
    this.row = data.steps.length - 1;
    this.frame = shape("rect", "hm-cursor", this.picture);
    this.frame.setAttribute("visibility", "hidden");
  }

  /** Column and row under a point of the window, or null. */
  at(clientX, clientY) {
    const box = this.picture.getBoundingClientRect();
    const scale = this.picture.viewBox.baseVal.width / box.width;
    const x = (clientX - box.left) * scale;
    const row = Math.floor(((clientY - box.top) * scale - this.data.top) / this.data.row);
    if (row < 0 || row >= this.data.steps.length) return null;
    const column = this.x.findLastIndex((left) => left <= x);
    return column >= 0 && x < this.x[column] + Math.max(this.data.cell, 1.5) + 1 ? [column, row] : null;
  }

  words(column, row) {
    const { data } = this;
    const change = data.changes[row][column];
    const q = data.q[row][column];
    const parts = [change === null ? "not evaluated" : figure(change, data.digits)];
    if (data.controls.includes(column)) parts.push("closed-form");
    else if (q !== null) parts.push(q < 1 ? "q < 0.001" : `q ${(q / 1000).toFixed(3)}`);
    return [data.names[column], this.domain[column], `Step ${data.steps[row].toLocaleString("en")}`, parts.join(", ")];
  }

  move(column, row, { aloud = false } = {}) {
    const { data } = this;
    this.column = clamp(column, 0, data.names.length - 1);
    this.row = clamp(row, 0, data.steps.length - 1);
    const width = Math.max(data.cell, 3);
    const x = this.x[this.column] + data.cell / 2;
    for (const [name, value] of Object.entries({
      x: x - width / 2, y: data.top + this.row * data.row - 0.5, width, height: data.row, visibility: "visible",
    })) this.frame.setAttribute(name, value);
    const [name, domain, step, figures] = this.words(this.column, this.row);
    this.tip.replaceChildren();
    for (const [tag, text] of [["b", name], ["span", figures], ["small", `${domain}, ${step.toLowerCase()}`]]) {
      const part = document.createElement(tag);
      part.textContent = text;
      this.tip.append(part);
    }
    this.place(x);
    if (aloud) this.say.textContent = `${name}, ${domain}. ${step}. ${figures}`;
  }

  /** The tip stands under the cell's row, or over it where there is no room, and never over the sides. */
  place(x) {
    const box = this.picture.getBoundingClientRect();
    const outer = this.region.getBoundingClientRect();
    const scale = box.width / this.picture.viewBox.baseVal.width;
    this.tip.hidden = false;
    const left = box.left - outer.left + this.region.scrollLeft + x * scale;
    const most = this.region.scrollLeft + outer.width - this.tip.offsetWidth - 4;
    this.tip.style.left = `${clamp(left - this.tip.offsetWidth / 2, 0, Math.max(most, 0))}px`;
    const below = (this.data.top + (this.row + 1) * this.data.row) * scale + 6;
    this.tip.style.top = `${box.top - outer.top + below}px`;
  }

  rest() {
    this.tip.hidden = true;
    this.frame.setAttribute("visibility", "hidden");
  }

  show(column = this.column, row = this.row) {
    if (column < 0) return;
    const url = new URL(this.region.dataset.open, location.href);
    url.searchParams.set("category", this.data.names[column]);
    url.searchParams.set("at", this.data.steps[row]);
    this.open(url.href);
  }

  /** To the next (1) or the previous (-1) alarm, round the ends. */
  alarm(step) {
    const { alarms, steps } = this.data;
    if (!alarms.length) return;
    const next = step > 0
      ? alarms.find((column) => column > this.column) ?? alarms[0]
      : alarms.findLast((column) => column < this.column) ?? alarms.at(-1);
    this.move(next, steps.length - 1, { aloud: true });
    this.show();
  }

  /** One step sideways, over columns that the search does not find. */
  side(step) {
    let column = this.column + step;
    while (column >= 0 && column < this.found.length && !this.found[column]) column += step;
    return column >= 0 && column < this.found.length ? column : Math.max(this.column, 0);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {
      ArrowLeft: () => [this.side(-1), this.row],
      ArrowRight: () => [this.side(1), this.row],
      ArrowUp: () => [Math.max(this.column, 0), this.row - 1],
      ArrowDown: () => [Math.max(this.column, 0), this.row + 1],
      Home: () => [0, this.row],
      End: () => [this.data.names.length - 1, this.row],
    };
    if (event.key === "Enter") this.show();
    else if (event.key === "Escape") this.rest();
    else if (moves[event.key]) this.move(...moves[event.key](), { aloud: true });
    else return;
    event.preventDefault();
  }

  find(text) {
    const needle = text.trim().toLowerCase();
    const { data } = this;
    this.found = data.names.map((name, column) => `${name}\n${this.domain[column]}`.toLowerCase().includes(needle));
    this.veil ??= this.picture.querySelector(".hm-veil") ?? shape("path", "hm-veil", this.picture);
    const height = data.row * data.steps.length;
    const bars = this.found.map((found, column) => (found ? "" : `M${this.x[column]} ${data.top}h${data.cell}v${height}h-${data.cell}z`));
    this.veil.setAttribute("d", bars.join(""));
    this.picture.append(this.frame);
  }
}

/** Make the region of a drawn heat map answer; `open` shows the samples of an address. */
export async function startHeat(region, open) {
  let data;
  try {
    data = await (await fetch(region.dataset.cells, { credentials: "same-origin" })).json();
  } catch { return; } // the picture and the table stay
  const heat = new Heat(region, data, open);
  region.addEventListener("pointermove", (event) => {
    const cell = heat.at(event.clientX, event.clientY);
    if (cell) heat.move(...cell);
    else heat.rest();
  });
  region.addEventListener("pointerleave", () => heat.rest());
  region.addEventListener("click", (event) => {
    const cell = heat.at(event.clientX, event.clientY);
    if (cell) { heat.move(...cell); heat.show(...cell); }
  });
  region.addEventListener("keydown", (event) => heat.key(event));
  region.addEventListener("blur", () => heat.rest());
  for (const button of document.querySelectorAll("[data-heat-go]")) {
    button.addEventListener("click", () => heat.alarm(Number(button.dataset.heatGo)));
  }
  const search = document.querySelector("[data-heat-find]");
  search?.addEventListener("input", () => heat.find(search.value));
  if (search?.value) heat.find(search.value);
  region.dataset.ready = "true";
}
