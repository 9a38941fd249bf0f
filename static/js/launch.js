// The launch form: presets fill fields, every change is checked again after 400 ms, and only the newest answer is shown.
const WAIT_MS = 400;

class Launch {
  constructor(form) {
    this.form = form;
    this.part = document.getElementById("preflight");
    form.addEventListener("input", (event) => this.changed(event));
    form.addEventListener("change", (event) => this.changed(event));
  }

  changed(event) {
    const fill = event.type === "change" && event.target.dataset.fill;
    if (fill) {
      for (const [name, value] of Object.entries(JSON.parse(fill))) {
        const field = this.form.elements.namedItem(name);
        if (field) field.value = value;
      }
    }
    this.explain(event.target);
    this.offerStarts();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), WAIT_MS);
  }

  /** The sentence under a choice whose values have one each. */
  explain(field) {
    const hint = field.dataset.hints && document.getElementById(`${field.name}-h`);
    if (hint) hint.textContent = JSON.parse(field.dataset.hints)[field.value];
  }

  /** Only versions of the base model that is typed; the reference is asked for where one is chosen. */
  offerStarts() {
    const { init_adapter: start, reference, base_model: model } = this.form.elements;
    if (!start) return;
    const base = model.value.trim().split("/").pop();
    const versions = [...start.options].filter((option) => option.value);
    for (const option of versions) {
      option.disabled = option.hidden = option.dataset.base !== base;
      if (option.disabled && option.selected) start.value = "";
    }
    start.parentElement.hidden = versions.every((option) => option.disabled);
    reference.parentElement.hidden = !start.value;
  }

  async check() {
    this.request?.abort();
    this.request = new AbortController();
    this.part.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(this.form.dataset.preflight, {
        method: "POST",
        body: new URLSearchParams(new FormData(this.form)),
        signal: this.request.signal,
      });
      if (!answer.ok) throw new Error(String(answer.status));
      this.part.innerHTML = await answer.text();
    } catch (error) {
      if (error.name === "AbortError") return; // a newer check is on its way
    }
    this.part.setAttribute("aria-busy", "false"); // on a failed check the last answer stays: launching checks again
  }
}

for (const form of document.querySelectorAll("[data-launch]")) new Launch(form);
