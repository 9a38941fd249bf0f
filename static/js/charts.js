// Run curves by uPlot: raw behind smoothed, a dot at the end, room up to the planned end, one cursor over all charts.
import * as marks from "./marks.js";
import { duration, figure, smooth, thousands, token } from "./series.js";

const HEIGHT = 136;
const colourOf = (name) => token(/^r[1-8]$/.test(name) ? `run-${name.slice(1)}` : name);

class Charts {
  constructor(root) {
    this.root = root;
    this.data = { x: [], time: [], series: {}, evals: {}, checkpoints: [] };
    this.planned = Number(root.dataset.planned) || 0;
    this.weight = Number(document.querySelector("[data-smoothing]")?.value ?? 0) / 100;
    this.axis = "step";
    this.sync = window.uPlot.sync("k-charts");
    this.charts = [...root.querySelectorAll("[data-chart]")].map((element) => new Curve(this, element));
    // Before uPlot's own listener, which asks for the range to show.
    root.addEventListener("dblclick", () => this.charts.forEach((chart) => { chart.zoomed = false; }), true);
    this.listen();
    this.load();
  }

  async load() {
    const inline = this.root.querySelector('script[type="application/json"]');
    try {
      this.data = { ...this.data, ...(inline ? JSON.parse(inline.textContent) : await (await fetch(this.root.dataset.src)).json()) };
    } catch {
      for (const chart of this.charts) chart.empty("The figures could not be loaded. Reload the page.");
      return;
    }
    this.planned = this.data.planned || this.planned;
    this.redraw();
    new ResizeObserver(() => this.charts.forEach((chart) => chart.resize())).observe(this.root);
  }

  listen() {
    document.addEventListener("k:theme", () => this.charts.forEach((chart) => chart.rebuild()));
    document.addEventListener("k:live", (event) => this.take(event.detail));
    document.addEventListener("input", (event) => {
      if (!event.target.matches("[data-smoothing]")) return;
      this.weight = Number(event.target.value) / 100;
      const out = document.querySelector("[data-smoothing-out]");
      if (out) out.textContent = this.weight.toFixed(2);
      this.redraw();
    });
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-axis]");
      if (!button) return;
      this.axis = button.dataset.axis;
      for (const other of document.querySelectorAll("[data-axis]")) other.setAttribute("aria-pressed", String(other === button));
      this.charts.forEach((chart) => chart.rebuild());
    });
  }

  take({ type, data }) {
    if (type === "metrics") {
      this.addStep(data);
      if (!this.planned) this.learnPlan(); // the page was opened before the run had started
    }
    else if (type === "eval") (this.data.evals[data.key] ??= []).push(data);
    else if (type === "checkpoint") this.data.checkpoints.push(data.step);
    else return;
    this.pending ??= requestAnimationFrame(() => { this.pending = null; this.redraw(); });
  }

  async learnPlan() {
    this.planned = 1;
    try {
      this.planned = (await (await fetch(this.root.dataset.src)).json()).planned || 1;
    } catch { /* the axis ends at the newest step then */ }
  }

  addStep({ step, time, values }) {
    const { x, series } = this.data;
    let at = x.length;
    while (at > 0 && x[at - 1] >= step) at -= 1; // a resumed attempt writes its steps again: the newest holds
    const same = x[at] === step ? 1 : 0;
    x.splice(at, same, step);
    this.data.time.splice(at, same, time ?? null);
    for (const key of new Set([...Object.keys(series), ...Object.keys(values)])) {
      const line = (series[key] ??= new Array(x.length - 1 + same).fill(null));
      line.splice(at, same, values[key] ?? null);
    }
  }

  /** Where the step axis ends: at the planned end, halved as long as the run has not come an eighth of the way. */
  end() {
    const reached = this.data.x.at(-1) ?? 0;
    let end = this.planned;
    while (end > 40 && reached < end / 8) end = Math.ceil(end / 2);
    return end;
  }

  redraw() { this.charts.forEach((chart) => chart.update()); }

  /** Positions of all steps on the present axis. */
  xs() {
    if (this.axis === "step") return this.data.x;
    const start = this.data.time.find((time) => time != null) ?? 0;
    return this.data.time.map((time, index) => (time == null ? index : time - start));
  }
}

class Curve {
  constructor(parent, element) {
    this.parent = parent;
    this.element = element;
    this.plotBox = element.querySelector("[data-plot]");
    this.now = element.querySelector("[data-now]");
    const data = element.dataset;
    this.keys = data.keys.split(" ");
    this.colours = data.colours.split(" ");
    this.names = data.names ? data.names.split(" ") : this.keys;
    this.digits = Number(data.digits);
    this.ref = data.ref === undefined ? null : Number(data.ref);
    this.margin = data.margin === undefined ? null : Number(data.margin);
    this.evaluated = data.evals !== undefined;
    this.signed = data.signed !== undefined;
    this.optional = data.optional !== undefined;
  }

  colour(index) { return colourOf(this.colours[index % this.colours.length]); }

  points(key) { return this.parent.data.evals[key] ?? []; }

  /** uPlot's columns: x, then raw and smoothed of each key; evaluated charts have one column of values per key. */
  columns() {
    if (this.evaluated) {
      const steps = [...new Set(this.keys.flatMap((key) => this.points(key).map((point) => point.x)))].sort((a, b) => a - b);
      const columns = this.keys.map((key) => {
        const by = new Map(this.points(key).map((point) => [point.x, point.y]));
        return steps.map((step) => by.get(step) ?? null);
      });
      return [this.place(steps), ...columns];
    }
    const lines = this.keys.map((key) => this.parent.data.series[key] ?? new Array(this.parent.data.x.length).fill(null));
    return [this.parent.xs(), ...lines.flatMap((line) => [line, smooth(line, this.parent.weight)])];
  }

  /** Steps of evaluations on the present axis: by time where the step has one. */
  place(steps) {
    if (this.parent.axis === "step") return steps;
    const xs = this.parent.xs();
    return steps.map((step) => xs[Math.max(this.parent.data.x.findLastIndex((x) => x <= step), 0)] ?? 0);
  }

  update() {
    const columns = this.columns();
    const some = columns.slice(1).some((column) => column.some((value) => value != null));
    this.element.hidden = this.optional && !some && this.parent.data.x.length > 0;
    if (!some) { this.empty("No figures yet"); return; }
    if (!this.plot) this.build(columns);
    else if (this.zoomed) {
      this.plot.setData(columns, false); // new points do not take the zoom away
      this.plot.redraw(false);
    } else this.plot.setData(columns);
    this.showNow(columns, columns[0].length - 1);
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    this.zoomed = false;
    this.update();
  }

  resize() {
    if (this.plot && this.plotBox.clientWidth) this.plot.setSize({ width: this.plotBox.clientWidth, height: HEIGHT });
  }

  empty(words) {
    this.plot?.destroy();
    this.plot = null;
    const note = document.createElement("p");
    note.className = "plot-empty";
    note.textContent = words;
    this.plotBox.replaceChildren(note);
    this.now.textContent = "–";
  }

  showNow(columns, index) {
    const each = this.keys.map((key, k) => {
      const column = columns[this.evaluated ? 1 + k : 2 + 2 * k];
      let at = index;
      while (at > 0 && column[at] == null) at -= 1;
      const span = document.createElement("span");
      span.className = `now-${this.colours[k % this.colours.length]}`;
      span.textContent = figure(column[at], this.digits, this.signed);
      span.title = this.names[k] ?? key;
      return span;
    });
    const parts = each.flatMap((span, k) => {
      if (!k) return [span];
      const gap = document.createElement("span");
      gap.className = "now-sep";
      gap.textContent = "/";
      return [gap, span];
    });
    this.now.replaceChildren(...parts);
  }

  series() {
    return this.keys.flatMap((key, k) => {
      const stroke = this.colour(k);
      if (this.evaluated) return [{ label: key, stroke, width: 0, paths: () => null, points: { show: false } }]; // drawEnds draws them
      return [
        { label: `${key}, raw`, stroke, width: 1, alpha: 0.28, points: { show: false } },
        { label: key, stroke, width: 1.75, dash: k ? [6, 3] : undefined, points: { show: false } },
      ];
    });
  }

  yRange(low, high) {
    const bounds = this.keys.flatMap((key) => (this.evaluated ? this.points(key).flatMap((p) => [p.lo ?? p.y, p.hi ?? p.y]) : []));
    const all = [...bounds, low, high, this.ref, this.margin].filter((value) => value != null);
    const [least, most] = [Math.min(...all), Math.max(...all)];
    const air = (most - least) * 0.08 || Math.abs(most) * 0.1 || 1;
    return [least - air, most + air];
  }

  build(columns) {
    this.plotBox.replaceChildren();
    const font = `11px ${token("font")}`;
    const tick = { stroke: token("ink-3"), font, ticks: { show: false } };
    const byStep = this.parent.axis === "step";
    const options = {
      width: this.plotBox.clientWidth || 300,
      height: HEIGHT,
      padding: [8, 20, 0, 0], // half of the last label of the x axis stands beyond the axis
      legend: { show: false },
      cursor: { sync: { key: "k-charts", setSeries: false }, y: false, points: { show: !this.evaluated, size: 6 }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: (_u, low, high) => this.xRange(low, high) }, y: { range: (_u, low, high) => this.yRange(low, high) } },
      axes: [
        { ...tick, size: 22, gap: 4, space: 56, grid: { show: false }, border: { show: true, stroke: token("line-strong"), width: 1 }, values: (_u, all) => all.map((v) => (byStep ? thousands(v) : duration(v))) },
        { ...tick, size: 44, gap: 6, space: 32, grid: { stroke: token("grid"), width: 1 }, values: (_u, all) => all.map((v) => figure(v, this.tickDigits(all))) },
      ],
      series: [{}, ...this.series()],
      hooks: {
        drawAxes: [(u) => this.drawMarks(u)],
        draw: [(u) => this.drawEnds(u)],
        setCursor: [(u) => this.showNow(this.columns(), u.cursor.idx ?? u.data[0].length - 1)],
        setSelect: [(u) => { this.zoomed = u.select.width > 0; }],
      },
    };
    this.plot = new window.uPlot(options, columns, this.plotBox);
  }

  /** The same for all curves, whatever steps they have. */
  xRange(low, high) {
    if (this.zoomed) return [low, high];
    const last = this.parent.xs().at(-1) ?? high ?? 1;
    return [0, Math.max(this.parent.axis === "step" ? this.parent.end() : 0, last, 1)];
  }

  tickDigits(all) {
    const whole = (value, digits) => Math.abs(value * 10 ** digits - Math.round(value * 10 ** digits)) < 1e-6;
    return [0, 1, 2, 3, 4, 5].find((digits) => all.every((value) => whole(value, digits))) ?? 6;
  }

  drawMarks(u) {
    const { ctx } = u;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.lineWidth = ratio;
    ctx.strokeStyle = token("line-strong");
    ctx.setLineDash([ratio, 3 * ratio]);
    for (const at of this.place(this.parent.data.checkpoints)) this.vertical(u, u.valToPos(at, "x", true));
    marks.level(u, this.ref, token("ref"), [4, 3]);
    marks.level(u, this.margin, token("bad"), [2, 2]);
    ctx.restore();
  }

  vertical(u, x) {
    u.ctx.beginPath();
    u.ctx.moveTo(x, u.bbox.top);
    u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
    u.ctx.stroke();
  }

  /** A dot at the end of every line, or the evaluated points; over them the words of the levels and the names of the lines. */
  drawEnds(u) {
    const { refLabel, marginLabel, names } = this.element.dataset;
    u.ctx.save();
    const ends = [];
    this.keys.forEach((key, k) => {
      if (this.evaluated) { marks.evaluated(u, this.placed(u, key), this.colour(k)); return; }
      const column = u.data[2 + 2 * k];
      const at = column.findLastIndex((value) => value != null);
      if (at < 0) return;
      const [x, y] = [u.valToPos(u.data[0][at], "x", true), u.valToPos(column[at], "y", true)];
      marks.dot(u, x, y, this.colour(k), 3);
      const text = /^(des|und)$/.test(this.colours[k]) ? `${this.colours[k]}-text` : "ink-2";
      ends.push({ name: this.names[k], colour: token(text), x, y });
    });
    for (const [value, label] of [[this.ref, refLabel], [this.margin, marginLabel]]) {
      if (value !== null && label) marks.words(u, label, u.bbox.left + u.bbox.width, u.valToPos(value, "y", true) - 5 * devicePixelRatio);
    }
    if (names) marks.nameEnds(u, ends);
    u.ctx.restore();
  }

  /** The evaluated points of a key in canvas pixels, by step. */
  placed(u, key) {
    const y = (value) => (value == null ? null : u.valToPos(value, "y", true));
    return this.points(key).filter((point) => point.y != null).sort((a, b) => a.x - b.x)
      .map((point) => ({ x: u.valToPos(this.place([point.x])[0], "x", true), y: y(point.y), lo: y(point.lo), hi: y(point.hi) }));
  }
}

for (const root of document.querySelectorAll("[data-charts]")) new Charts(root);
