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
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), WAIT_MS);
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
