"use strict";
// One dialogue as elements: the question, every attempt with its verdict, and what stood between them.

const SAID = {
  verdict: { correct: "correct", wrong: "wrong", invalid: "no answer" },
  mark: { correct: "✓", wrong: "✗", invalid: "∅" },
  finish: { eos: "ended its turn", stop: "stopped at its box", length: "cut at the token limit", error: "request lost" },
  ending: {
    solved: "Solved.",
    exhausted: "Not solved: no attempt was left.",
    truncated: "Not solved: the token limit ended it.",
    failed: "A request was lost, so this dialogue counts nowhere.",
  },
};

const many = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** The verdicts of a dialogue in one glance. */
function marks(attempts) {
  const made = element("span", "marks", ...attempts.map(({ verdict }) => element("span", `mark ${verdict}`, SAID.mark[verdict])));
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", attempts.map(({ verdict }) => SAID.verdict[verdict]).join(", ") || "no attempt");
  return made;
}

/**
 * Puts dialogue i into `target`. `options`: {source: LaTeX as it was written, open: called with the number of another
 * dialogue about the same question, where those shall be offered}.
 */
async function show(target, dialogues, i, options) {
  const call = Symbol(i);
  target.call = call;
  const responses = await dialogues.responses(i);
  if (target.call !== call) return; // another one was asked for meanwhile
  const until = performance.now() + LIMITS.milliseconds;
  const { benchmark, id, level, subject, gold, problem } = dialogues.question(i);
  const run = dialogues.run(i);
  const words = dialogues.words(i);
  const attempts = dialogues.attempts(i);
  const style = { source: options.source, until, verdict: "" };

  const where = element("p", "where", element("b", "", benchmark), ` · ${id}`);
  if (level) where.append(` · level ${visible(level)}`);
  if (subject) where.append(` · ${visible(subject)}`);
  const sample = dialogues.index.sample[i];
  where.append(" · ", element("b", "", run.title), sample ? ` (sample ${sample + 1})` : "");
  where.title = run.meaning;

  const question = element("div", "text problem");
  typeset(question, problem, style);
  const right = element("span", "value", answer(gold, options.source));
  const parts = [where, question, element("p", "gold", "Right answer: ", right)];
  if (options.open) parts.push(siblings(dialogues, i, options.open));
  parts.push(told(words.first, style));
  attempts.forEach((attempt, k) => {
    parts.push(attemptElement(attempt, k + 1, dialogues.index.budgets[i], responses[k], style));
    if (k + 1 < attempts.length && words.feedback[k]) parts.push(turn(words.feedback[k], style));
  });
  parts.push(element("p", "ending", SAID.ending[dialogues.index.ending[i]]));
  target.replaceChildren(...parts);
  target.scrollTop = 0;
}

function attemptElement({ verdict, tokens, finish, answer: given, again }, k, budget, response, style) {
  const head = element("header", "", element("b", "", `Attempt ${k} of ${budget}`), element("span", `tag ${verdict}`, SAID.verdict[verdict]));
  if (given !== null) {
    const shown = element("span", "", "answer ", answer(given, style.source));
    head.append(shown);
  }
  if (again) head.append(element("span", "", `the same as in attempt ${again}`));
  head.append(element("span", "", `${many(tokens, "token")}, ${SAID.finish[finish] || finish}`));
  const body = element("div", "text");
  const options = { ...style, verdict };
  if (typeof response === "string") typeset(body, response, options);
  else {
    const [beginning, omitted, end] = response;
    typeset(body, beginning, style);
    body.append(element("span", "omitted", `${many(omitted, "character")} left out; episodes.jsonl has them`));
    typeset(body, end, options);
  }
  return element("section", `attempt is-${verdict}`, head, body);
}

/** A message that was not the model's. */
function turn({ role, content }, style) {
  const text = element("div", "text");
  typeset(text, content, style);
  return element("div", "turn", element("span", "role", role), text);
}

function told(messages, style) {
  const made = element("details", "told", element("summary", "", "What the model was told first"));
  // Rendered when it is opened: it says the problem again.
  made.addEventListener("toggle", () => made.append(...messages.map((each) => turn(each, { ...style, until: performance.now() + LIMITS.milliseconds }))), { once: true });
  return made;
}

/** Buttons for the other dialogues about the same question. */
function siblings(dialogues, i, open) {
  const all = dialogues.siblings.get(dialogues.index.question[i]);
  if (all.length < 2) return element("span");
  const made = element("div", "siblings");
  const groups = new Map(); // title of a run -> its element
  for (const other of all.slice(0, 80)) {
    const { title } = dialogues.run(other);
    if (!groups.has(title)) groups.set(title, made.appendChild(element("span", "", `${title} `)));
    const verdicts = dialogues.attempts(other).map(({ verdict }) => verdict);
    const button = element("button", "", verdicts.map((verdict) => SAID.mark[verdict]).join("") || "–");
    button.type = "button";
    button.setAttribute("aria-label", `${title}: ${verdicts.map((verdict) => SAID.verdict[verdict]).join(", ")}`);
    button.setAttribute("aria-current", String(other === i));
    button.addEventListener("click", () => open(other));
    groups.get(title).append(button);
  }
  return made;
}
