// The widget, to read and to edit. `python scripts/widget.py` writes v1.js from it, without what only people need.
const doc = document, own = doc.querySelector("script[data-kto-key]").dataset,
  url = new URL("/api/v1/feedback/", import.meta.url) + own.ktoSource + "/",
  words = (own.ktoWords || "Thumb up|Thumb down|Comment|Send|Saved|Not saved|Try again").split("|"),
  css = new CSSStyleSheet();

// A constructed sheet is no inline style: a page's content security policy lets it be.
css.replaceSync(`:host,form{display:inline-flex;flex-wrap:wrap;gap:6px;align-items:center}
button,input{font:inherit;min-height:32px;padding:4px 8px;border:1px solid;border-radius:6px;background:0 0;color:inherit}
:focus-visible{outline:2px solid}
svg{width:18px;display:block;fill:none;stroke:currentColor;stroke-width:2}
[aria-pressed=true] svg{fill:currentColor}
button+button svg{rotate:180deg}
[hidden]{display:none}`);

// Where a browser keeps nothing for the page, the thumb lasts as long as the page does.
const store = (name, value) => { try { return value ? localStorage[name] = value : localStorage[name]; } catch { return value; } },
  me = store("kto-rater") || store("kto-rater", "web" + Math.random()),
  make = (tag, props, ...kids) => { const e = Object.assign(doc.createElement(tag), props); e.append(...kids); return e; },
  svg = (tag, name, value, ...kids) => { const e = doc.createElementNS("http://www.w3.org/2000/svg", tag); e.setAttribute(name, value); e.append(...kids); return e; };

function mount(host) {
  if (host.kto) return;
  host.kto = 1;
  const id = host.dataset.ktoCompletion, rater = host.dataset.ktoRater || me, name = `kto:${rater}:${id}`;
  let now = JSON.parse(store(name) || "{}"), turn = 0, tries = 0, busy, timer; // now: {label, comment, unsent}
  const set = next => { now = { ...next, unsent: 1 }; turn++; tries = 0; store(name, JSON.stringify(now)); send(); },
    thumbs = [true, false].map((label, i) =>
      make("button", { title: words[i], onclick() { set(now.label === label ? {} : { label }); } },
        svg("svg", "viewBox", "0 0 24 24", svg("path", "d", "M3 11h4v9H3zM7 11l4-8q3 0 3 7h7l-2 10H7")))),
    note = make("input", { maxLength: 2000, ariaLabel: words[2], placeholder: words[2], value: now.comment || "" }),
    form = make("form", { onsubmit(e) { e.preventDefault(); set({ ...now, comment: note.value }); } }, note, make("button", {}, words[3])),
    said = make("span", { role: "status" }),
    again = make("button", { hidden: true, onclick: send }, words[6]),
    paint = () => {
      thumbs.map((b, i) => b.ariaPressed = now.label === !i);
      form.hidden = now.label == null;
    };
  async function send() {
    paint();
    clearTimeout(timer);
    if (busy) return;
    busy = 1;
    const { unsent, ...sent } = now, on = sent.label != null, mine = turn;
    const got = await fetch(url + encodeURIComponent(id + ":" + rater), {
      method: on ? "PUT" : "DELETE",
      keepalive: true,
      headers: { Authorization: "Bearer " + own.ktoKey, "Content-Type": "application/json" },
      body: on ? JSON.stringify({ completion_id: id, rater, ...sent }) : null,
    }).catch(() => ({}));
    busy = 0;
    if (mine < turn) return send(); // changed meanwhile
    again.hidden = got.ok || !on && got.status == 404;
    said.textContent = words[again.hidden ? 4 : 5];
    if (again.hidden) store(name, JSON.stringify(now = sent));
    else if (tries < 9) timer = setTimeout(send, 1000 * 2 ** ++tries);
  }
  const root = host.appendChild(make("span")).attachShadow({ mode: "open" });
  root.adoptedStyleSheets = [css];
  root.append(...thumbs, form, said, again);
  now.unsent ? send() : paint();
}

// Elements that a page adds later are found too; those in a shadow root of its own once it calls watch(shadowRoot).
export function watch(root) {
  const look = () => root.querySelectorAll("[data-kto-completion]").forEach(mount);
  new MutationObserver(look).observe(root, { childList: true, subtree: true });
  look();
}
watch(doc);
