"use strict";
// What was played: an index that is read at once, and parts with the responses, read when they are needed.

/** The JSON in the page's element `id`, which holds base64 of gzip. */
async function inflate(id) {
  const packed = document.getElementById(id).textContent.trim();
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(packed) : Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** All dialogues, named by their number. */
class Dialogues {
  /** `index` as page_data.py makes it. */
  constructor(index) {
    this.index = index;
    this.length = index.question.length;
    this.parts = new Map(); // number of a part -> promise of its responses
    this.haystacks = null; // lower-case texts, once a search has asked for them
    this.solvedAt = index.attempts.map((each) => each.findIndex(([verdict]) => verdict === "correct") + 1);
    this.repeated = index.attempts.map((each) => each.some(([, , , , again]) => again > 0));
    this.truncated = index.attempts.map((each) => each.some(([, , finish]) => finish === "length"));
    this.siblings = new Map(); // number of a question -> its dialogues
    index.question.forEach((question, i) => {
      if (!this.siblings.has(question)) this.siblings.set(question, []);
      this.siblings.get(question).push(i);
    });
  }

  question(i) {
    const [benchmark, id, level, subject, gold, problem] = this.index.questions[this.index.question[i]];
    return { benchmark, id, level, subject, gold, problem };
  }

  run(i) {
    const [name, title, meaning] = this.index.runs[this.index.run[i]];
    return { name, title, meaning };
  }

  attempts(i) {
    return this.index.attempts[i].map(([verdict, tokens, finish, answer, again]) => ({ verdict, tokens, finish, answer, again }));
  }

  tokens(i) {
    return this.index.attempts[i].reduce((sum, [, tokens]) => sum + tokens, 0);
  }

  /** What the model was told: {first: messages, feedback: messages}, with the problem and the remarks put in. */
  words(i) {
    const { first, feedback: plain } = this.index.words[`${this.run(i).name} ${this.index.budgets[i]}`];
    const problem = this.question(i).problem;
    const feedback = plain.map(({ role, content }, k) => ({ role, content: this.index.attempts[i][k]?.[5] ?? content }));
    const fill = ({ role, content }) => ({ role, content: content.split(this.index.mark).join(problem) });
    return { first: first.map(fill), feedback: feedback.map(fill) };
  }

  /** The responses of dialogue i: each a text, or [beginning, characters left out, end]. */
  async responses(i) {
    const starts = this.index.starts;
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= i) low = middle;
      else high = middle - 1;
    }
    return (await this.part(low))[i - starts[low]];
  }

  part(number) {
    if (!this.parts.has(number)) this.parts.set(number, inflate(`part-${number}`));
    return this.parts.get(number);
  }

  /** Reads everything for a search; slow once. */
  async gather() {
    if (this.haystacks) return;
    const questions = this.index.questions.map((each) => each.join("\n").toLowerCase());
    const found = [];
    for (let number = 0; number < this.index.starts.length; number++) {
      for (const responses of await this.part(number)) {
        const i = found.length;
        const said = responses.map((each) => (typeof each === "string" ? each : `${each[0]}\n${each[2]}`));
        found.push([questions[this.index.question[i]], said.join("\n").toLowerCase()]);
      }
    }
    this.haystacks = found;
  }

  /** The numbers of the dialogues that a state of the filters lets through. */
  filter(state) {
    const text = state.q.toLowerCase();
    const found = [];
    for (let i = 0; i < this.length; i++) if (this.passes(i, state, text)) found.push(i);
    return found;
  }

  passes(i, state, text) {
    const [benchmark, , level, subject] = this.index.questions[this.index.question[i]];
    const lost = this.index.ending[i] === "failed";
    return (
      (!state.benchmark || benchmark === state.benchmark) &&
      (state.run === "all" || this.index.runs[this.index.run[i]][0] === state.run) &&
      (!state.level || level === state.level) &&
      (!state.subject || subject === state.subject) &&
      (!state.repeated || this.repeated[i]) &&
      (!state.truncated || this.truncated[i]) &&
      (!state.outcome ||
        (state.outcome === "lost" ? lost : !lost && this.solvedAt[i] === (state.outcome === "never" ? 0 : Number(state.outcome)))) &&
      (!text || this.haystacks[i].some((each) => each.includes(text)))
    );
  }
}
