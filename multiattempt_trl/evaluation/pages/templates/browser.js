"use strict";
// The browser of the dialogues: filters, a list that only holds the rows in view, and one dialogue. Its state stands in
// the address, so that a view can be linked.

const ROW = 64; // pixels, as in report.css
const DEFAULTS = { q: "", benchmark: "", run: "main", outcome: "", level: "", subject: "", repeated: "", truncated: "", source: "", open: "" };
const VALUES = ["q", "benchmark", "run", "outcome", "level", "subject"];
const CHECKS = ["repeated", "truncated"];

/** The state that an address names; the run is `main` unless it says otherwise. */
function readState() {
  const given = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]));
}

class Browser {
  constructor(dialogues) {
    this.dialogues = dialogues;
    this.form = document.getElementById("filters");
    this.list = document.getElementById("list");
    this.rows = document.getElementById("rows");
    this.count = document.getElementById("count");
    this.detail = document.getElementById("detail");
    this.source = document.getElementById("source");
    this.found = [];
    if (!dialogues.index.runs.some(([name]) => name === DEFAULTS.run)) DEFAULTS.run = "all";
    this.state = readState();
    this.fillSelects();
    this.listen();
  }

  fillSelects() {
    const { questions, runs, budget } = this.dialogues.index;
    const column = (at) => [...new Set(questions.map((each) => each[at]))].filter(Boolean);
    const natural = (values) => values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const choices = {
      benchmark: [["", "all"], ...column(0).map((name) => [name, name])],
      run: [["all", "all"], ...runs.map(([name, title]) => [name, title])],
      outcome: [
        ["", "any"],
        ...Array.from({ length: budget }, (_, k) => [String(k + 1), `solved at attempt ${k + 1}`]),
        ["never", "never solved"],
        ["lost", "request lost"],
      ],
      level: [["", "all"], ...natural(column(2)).map((name) => [name, name])],
      subject: [["", "all"], ...natural(column(3)).map((name) => [name, name])],
    };
    for (const [name, options] of Object.entries(choices)) {
      const select = this.form.elements[name];
      select.replaceChildren(...options.map(([value, label]) => new Option(visible(label), value)));
      select.parentElement.hidden = options.length < 2 || (name === "benchmark" && options.length < 3);
      if (select.parentElement.hidden) select.parentElement.style.display = "none";
    }
  }

  listen() {
    let waiting = 0;
    this.form.addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.change(this.readForm()), event.target.name === "q" ? 200 : 0);
    });
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.change({ ...DEFAULTS, source: this.state.source, open: this.state.open });
    });
    this.source.addEventListener("change", () => this.change({ source: this.source.checked ? "1" : "" }));
    this.list.addEventListener("scroll", () => requestAnimationFrame(() => this.draw()));
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.open(Number(row.dataset.dialogue));
    });
    new ResizeObserver(() => this.draw()).observe(this.list);
    addEventListener("hashchange", () => {
      if (location.hash.includes("=")) this.change(readState());
    });
  }

  readForm() {
    const values = VALUES.map((name) => [name, this.form.elements[name].value]);
    const checks = CHECKS.map((name) => [name, this.form.elements[name].checked ? "1" : ""]);
    return Object.fromEntries([...values, ...checks]);
  }

  /** Takes over a change of the state: filters, shows, and writes the address. */
  async change(changes) {
    const before = this.state;
    this.state = { ...before, ...changes };
    const state = this.state;
    for (const name of VALUES) this.form.elements[name].value = state[name];
    for (const name of CHECKS) this.form.elements[name].checked = Boolean(state[name]);
    this.source.checked = Boolean(state.source);
    const begun = performance.now();
    if (state.q && !this.dialogues.haystacks) {
      this.count.textContent = "Reading all responses …";
      await this.dialogues.gather();
      if (this.state !== state) return; // changed meanwhile
    }
    this.found = this.dialogues.filter(state);
    this.say();
    this.rows.style.height = `${this.found.length * ROW}px`;
    this.reveal();
    this.draw();
    document.documentElement.dataset.filterMs = (performance.now() - begun).toFixed(1);
    document.documentElement.dataset.found = this.found.length;
    this.write();
    await this.showOpen();
  }

  say() {
    const { found, dialogues } = this;
    const counted = found.filter((i) => dialogues.index.ending[i] !== "failed");
    const solved = counted.filter((i) => dialogues.solvedAt[i] > 0).length;
    const share = counted.length ? `, ${((100 * solved) / counted.length).toFixed(1)} % solved` : "";
    this.count.textContent = `${found.length.toLocaleString("en")} of ${many(dialogues.length, "dialogue")}${share}`;
  }

  async showOpen() {
    const i = this.state.open === "" ? -1 : Number(this.state.open);
    if (!(i >= 0 && i < this.dialogues.length)) return;
    const begun = performance.now();
    await show(this.detail, this.dialogues, i, { source: Boolean(this.state.source), open: (other) => this.open(other) });
    document.documentElement.dataset.openMs = (performance.now() - begun).toFixed(1);
    document.documentElement.dataset.open = i;
  }

  /** Opens dialogue i, after a pause where keys may move on at once. */
  open(i, pause = 0) {
    this.state = { ...this.state, open: String(i) };
    this.reveal();
    this.draw();
    this.write();
    clearTimeout(this.opening);
    this.opening = setTimeout(() => this.showOpen(), pause);
  }

  write() {
    const named = Object.entries(this.state).filter(([name, value]) => value !== DEFAULTS[name]);
    const hash = new URLSearchParams(named).toString();
    if (hash || location.hash.includes("=")) history.replaceState(null, "", hash ? `#${hash}` : "#dialogues");
  }

  /** Scrolls the open dialogue's row into the list's view. */
  reveal() {
    const at = this.state.open === "" ? -1 : this.found.indexOf(Number(this.state.open));
    if (at < 0) return;
    const { scrollTop, clientHeight } = this.list;
    if (at * ROW < scrollTop) this.list.scrollTop = at * ROW;
    else if ((at + 1) * ROW > scrollTop + clientHeight) this.list.scrollTop = (at + 1) * ROW - clientHeight;
  }

  /** Draws the rows in view, and a few around them. */
  draw() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 5);
    const last = Math.min(this.found.length, Math.ceil((this.list.scrollTop + this.list.clientHeight) / ROW) + 5);
    const rows = [];
    for (let at = first; at < last; at++) rows.push(this.row(at));
    this.rows.replaceChildren(...rows);
    const open = document.getElementById(`row-${this.state.open}`);
    if (open) this.list.setAttribute("aria-activedescendant", open.id);
    else this.list.removeAttribute("aria-activedescendant");
  }

  row(at) {
    const i = this.found[at];
    const { benchmark, id, problem } = this.dialogues.question(i);
    const snippet = problem.slice(0, 160).replace(/(?<!\\)\$+/g, "").replace(/\s+/g, " ");
    const top = element("div", "", marks(this.dialogues.attempts(i)), snippet);
    const meta = element("div", "meta", `${benchmark} · ${id} · ${this.dialogues.run(i).title} · ${many(this.dialogues.tokens(i), "token")}`);
    const made = element("div", "row", top, meta);
    made.style.top = `${at * ROW}px`;
    made.id = `row-${i}`;
    made.dataset.dialogue = i;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", String(String(i) === this.state.open));
    made.setAttribute("aria-posinset", at + 1);
    made.setAttribute("aria-setsize", this.found.length);
    return made;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.found.length) return;
    event.preventDefault();
    const at = this.found.indexOf(Number(this.state.open || -1));
    const next = at < 0 ? 0 : Math.min(this.found.length - 1, Math.max(0, at + steps[event.key]));
    this.open(this.found[next], 80);
  }
}

/** Reads the index, starts the browser and fills the figure that is a dialogue. */
async function start() {
  const dialogues = new Dialogues(await inflate("index"));
  const browser = new Browser(dialogues);
  await browser.change({});
  document.documentElement.dataset.readyMs = performance.now().toFixed(1);
  if (location.hash.includes("=")) document.getElementById("dialogues").scrollIntoView();
  const figure = document.getElementById("figure-3");
  if (figure) await show(figure, dialogues, Number(figure.dataset.dialogue), { source: false });
  document.documentElement.dataset.state = "ready";
}

start().catch((error) => {
  document.getElementById("count").textContent = `The dialogues cannot be read: ${error.message}`;
  throw error;
});
