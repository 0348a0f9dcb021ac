"use strict";
// LaTeX within text: what is maths is found here and rendered by KaTeX as MathML. What a model wrote only ever
// becomes text nodes and KaTeX's own elements, never markup.

const LIMITS = {
  text: 60000, // characters shown of one text
  formula: 4000, // characters of one formula
  depth: 120, // nested elements of one formula: layout recurses
  milliseconds: 1500, // rendering one dialogue; what comes later stays source
};
const ENVIRONMENTS = /^(equation|align|aligned|gather|gathered|multline|eqnarray|cases|array|[pbvBV]?matrix|split)\*?$/;
const OPENING = /\\\\|\\\$|\\\(|\\\[|\$\$?|\\boxed\s*\{|\\begin\{([a-zA-Z]+\*?)\}|```|\[asy\]/g;

/** A new element; `content` is text or nodes. */
function element(tag, className = "", ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content.map((each) => (typeof each === "string" ? visible(each) : each)));
  return made;
}

/** Control characters as their pictures. */
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0))).replace(/\u007f/g, "\u2421");
}

/** Cuts a text into [{kind: "text" | "inline" | "display" | "box" | "code", source, tex}], in one pass. */
function segments(text) {
  const found = [];
  const missing = new Set(); // closers that do not come any more: searched for once, so that all of it stays linear
  let start = 0;
  const closer = (close, from) => {
    if (missing.has(close)) return -1;
    const at = text.indexOf(close, from);
    if (at < 0) missing.add(close);
    return at;
  };
  const push = (kind, from, to, tex) => {
    if (from > start) found.push({ kind: "text", source: text.slice(start, from) });
    found.push({ kind, source: text.slice(from, to), tex });
    start = OPENING.lastIndex = to;
  };
  OPENING.lastIndex = 0;
  for (let match = OPENING.exec(text); match; match = OPENING.exec(text)) {
    const [open, environment] = match;
    const from = match.index;
    const inner = from + open.length;
    if (open === "\\\\" || open === "\\$") continue;
    if (open.startsWith("\\boxed")) {
      const end = closingBrace(text, inner);
      if (end > 0) push("box", from, end, text.slice(from, end));
    } else if (open === "$") {
      const end = closingDollar(text, inner);
      if (end > 0) push("inline", from, end + 1, text.slice(inner, end));
    } else if (environment) {
      const close = `\\end{${environment}}`;
      const end = ENVIRONMENTS.test(environment) ? closer(close, inner) : -1;
      if (end > 0) push("display", from, end + close.length, text.slice(from, end + close.length));
    } else {
      const [close, kind] = { "$$": ["$$", "display"], "\\(": ["\\)", "inline"], "\\[": ["\\]", "display"], "```": ["```", "code"], "[asy]": ["[/asy]", "code"] }[open];
      const end = closer(close, inner);
      if (end > inner) push(kind, from, end + close.length, text.slice(inner, end));
    }
  }
  if (start < text.length) found.push({ kind: "text", source: text.slice(start) });
  return found;
}

/** The offset after the brace that closes one opened before `from`; 0 where none does soon. */
function closingBrace(text, from) {
  const until = Math.min(text.length, from + 1000);
  for (let i = from, depth = 1; i < until; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i + 1;
  }
  return 0;
}

/** The dollar that ends a formula begun before `from`; 0 where this one is money, or the paragraph ends first. */
function closingDollar(text, from) {
  const until = Math.min(text.length, from + 2000);
  for (let i = from; i < until; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "\n" && text[i + 1] === "\n") return 0;
    else if (text[i] === "$") {
      const money = /^\d[\d,.]*\s/.test(text.slice(from, from + 20)) && /\s/.test(text[i - 1]);
      return i === from || money || /\d/.test(text[i + 1] || "") ? 0 : i;
    }
  }
  return 0;
}

/** A formula as an element; its source where KaTeX cannot, or it would be too deep to lay out. */
function formula(tex, display) {
  const made = element("span", display ? "display" : "");
  try {
    if (tex.length > LIMITS.formula) throw new RangeError("too long");
    katex.render(tex, made, { output: "mathml", displayMode: display, throwOnError: false, trust: false, strict: "ignore", maxSize: 20, maxExpand: 300, errorColor: "currentColor" });
    if (depth(made) > LIMITS.depth) throw new RangeError("too deep");
  } catch {
    made.replaceChildren(element("code", "tex", tex));
  }
  return made;
}

function depth(root) {
  let deepest = 0;
  for (let level = [root]; level.length; deepest++) level = level.flatMap((node) => [...node.children]);
  return deepest;
}

/** Fills `target` with a text. `options`: {source: as it is, until: time to stop rendering at, verdict: marks the last box}. */
function typeset(target, text, options) {
  if (text.length > LIMITS.text) {
    const half = LIMITS.text / 2;
    typeset(target, text.slice(0, half), { ...options, verdict: "" });
    target.append(element("span", "omitted", `${(text.length - 2 * half).toLocaleString("en")} characters are not shown`));
    typeset(target, text.slice(-half), options);
    return;
  }
  const boxes = [];
  const pieces = segments(text);
  pieces.forEach(({ kind, source, tex }, at) => {
    const plain = options.source || performance.now() > options.until;
    const displayed = (other) => !plain && pieces[other]?.kind === "display"; // has lines, and space, of its own
    if (kind === "text") {
      const opened = displayed(at - 1) ? source.trimStart() : source;
      target.append(visible(displayed(at + 1) ? opened.trimEnd() : opened));
    }
    else if (kind === "code") target.append(element("span", "code", source));
    else if (kind === "box") {
      const made = target.appendChild(plain ? element("mark", "", source) : box(tex));
      boxes.push(made.querySelector("menclose") || made);
    } else {
      const made = plain ? element("span", "", ...marked(source)) : formula(visible(tex), kind === "display");
      boxes.push(...made.querySelectorAll("menclose, mark"));
      target.append(made);
    }
  });
  if (options.verdict && boxes.length) boxes.at(-1).classList.add("answer", options.verdict);
}

/** A box that stands outside of maths. Words in it are words. */
function box(tex) {
  const content = tex.slice(tex.indexOf("{") + 1, -1);
  if (/^[^\\^_${}]*$/.test(content) && /[a-z]{3}/i.test(content)) return element("mark", "", content);
  return formula(visible(tex), false);
}

/** The source of a formula with its last box as a node of its own. */
function marked(source) {
  const at = source.lastIndexOf("\\boxed{");
  const end = at < 0 ? 0 : closingBrace(source, at + 7);
  return end ? [source.slice(0, at), element("mark", "", source.slice(at, end)), source.slice(end)] : [source];
}

/** An answer, which is maths more often than not. */
function answer(text, source) {
  const words = /^[^\\^_${}]*$/.test(text) && /[a-z]{3}/i.test(text);
  return source || words ? element("span", "", text) : formula(visible(text.replace(/^\$+|\$+$/g, "")), false);
}
