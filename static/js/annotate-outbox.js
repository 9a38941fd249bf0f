// Verdicts on their way, kept on this device until the server has them. Read anew each time: another tab may have changed it.
export class Outbox {
  constructor(key) { this.key = key; this.memory = []; }

  #load() { try { return JSON.parse(localStorage.getItem(this.key)) ?? this.memory; } catch { return this.memory; } }

  #keep(verdicts) {
    this.memory = verdicts;
    try { if (verdicts.length) localStorage.setItem(this.key, JSON.stringify(verdicts)); else localStorage.removeItem(this.key); }
    catch { /* memory only */ }
  }

  add(slot, fields) {
    const id = `${Date.now()}-${Math.random()}`;
    this.#keep([...this.#load().filter((verdict) => verdict.slot !== slot), { id, slot, fields }]);
  }

  remove(id) { this.#keep(this.#load().filter((verdict) => verdict.id !== id)); }
  first() { return this.#load()[0]; }
  last() { return this.#load().at(-1); }
  size() { return this.#load().length; }
  slots() { return this.#load().map((verdict) => verdict.slot); }
}
