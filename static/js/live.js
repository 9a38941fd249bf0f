// Live parts of a page: one event stream, reconnecting by itself, replaced by polling after two failures. Data stay readable.
const RETRY_MS = 2000;
const POLL_MS = 3000;
const TYPES = ["metrics", "eval", "checkpoint", "part", "append", "prepend", "reload", "done"];

const clock = () => new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

class Live {
  constructor(root) {
    this.root = root;
    this.url = root.dataset.live;
    this.poll = root.dataset.livePoll;
    this.lastId = root.dataset.liveAfter ?? "";
    this.heard = clock();
    this.failures = 0;
    this.done = false;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    this.open();
  }

  word(text) {
    for (const element of document.querySelectorAll("[data-live-word]")) {
      if (element.textContent !== text) element.textContent = text;
    }
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  open() {
    if (this.done || document.hidden) return;
    this.close();
    if (this.failures >= 2 && this.poll) { this.pollOnce(); return; }
    const url = new URL(this.url, location.href);
    if (this.lastId) url.searchParams.set("after", this.lastId); // a fresh EventSource sends no Last-Event-ID of its own
    const source = new EventSource(url);
    this.source = source;
    source.addEventListener("open", () => { this.failures = 0; this.word("live"); });
    source.addEventListener("error", () => {
      this.failures += 1;
      this.word(`reconnecting, last ${this.heard}`);
      this.close();
      this.timer = setTimeout(() => this.open(), RETRY_MS);
    });
    for (const type of TYPES) {
      source.addEventListener(type, (event) => this.take(type, event.data ? JSON.parse(event.data) : {}, event.lastEventId));
    }
  }

  async pollOnce() {
    try {
      const url = new URL(this.poll, location.href);
      url.searchParams.set("after", this.lastId);
      const answer = await fetch(url, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(String(answer.status));
      const body = await answer.json();
      for (const event of body.events) this.take(event.type, event.data, event.id);
      if (body.done) { this.finish(); return; }
      this.heard = clock();
      this.word(`checking every ${POLL_MS / 1000} s`);
    } catch {
      this.word(`reconnecting, last ${this.heard}`);
    }
    if (this.done || document.hidden) return;
    this.polls = (this.polls ?? 0) + 1;
    if (this.polls % 10 === 0) this.failures = 0; // now and then the stream gets another chance
    this.timer = setTimeout(() => this.open(), POLL_MS);
  }

  finish() {
    this.done = true;
    this.close();
    this.word("finished");
  }

  take(type, data, id) {
    if (id) this.lastId = id;
    this.heard = clock();
    const target = data.target && document.getElementById(data.target);
    if (type === "part" && target) target.innerHTML = data.html;
    if (type === "append" && target) target.insertAdjacentHTML("beforeend", data.html);
    if (type === "prepend" && target) target.insertAdjacentHTML("afterbegin", data.html);
    if (target) window.htmx?.process(target);
    if (type === "reload") { this.finish(); location.reload(); }
    if (type === "done") this.finish();
    document.dispatchEvent(new CustomEvent("k:live", { detail: { type, data } }));
  }
}

for (const root of document.querySelectorAll("[data-live]")) new Live(root);
