// Elements of the page: small makers, and answers drawn with them. Texts are only ever set as text, never as HTML.

const SHOWN = 20; // hits at first, or all where only a few more would be hidden
const FEW = 5;
const MOST_SHOWN = 500;
const MOST_LABELS = 6;
const MOST_NAME = 24; // characters of a label before it is broken
const MOST_PAIRS = 3;
const MOST_FACTS = 4;

export const find = (selector, root = document) => root.querySelector(selector);
export const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with properties (``style`` takes CSS variables, ``on...`` listeners) and children; "" is no child. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.entries(value).forEach(([key, to]) => element.style.setProperty(key, to));
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== ""));
  return element;
}

export const number = new Intl.NumberFormat("en");
export const counted = (count, one, many = `${one}s`) => `${number.format(count)} ${count === 1 ? one : many}`;
export const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);

const percent = (value) => (value >= 0.0995 ? `${Math.round(value * 100)} %` : `${(value * 100).toFixed(1)} %`);
const fixed = (value) => value.toFixed(2).replace("-", "−");
const bytes = (text) => new TextEncoder().encode(text).length;
const meter = (part) => make("span", { className: "meter" }, make("i", { style: { "--part": Math.min(1, Math.max(0, part)) } }));

/** {text, score} in the order of their scores, with metadata where there is some. Of cosines and probabilities a bar is
    as long as the number says, full at 1; scores without such an end are shown between the lowest and the best. */
export function hits(found) {
  if (!found.length) return [];
  const order = [...found].sort((a, b) => b.score - a.score);
  const top = order[0].score, last = order.at(-1).score, ended = top <= 1.001 && last >= -1.001;
  const part = (score) => (ended ? score : (score - Math.min(0, last)) / (top - Math.min(0, last)));
  const row = ({ text, score, metadata = {} }, place) => make("li", {},
    make("span", { className: "rank" }, `${place + 1}`), make("span", { className: "text", dir: "auto", ...spoken(metadata) }, text),
    make("span", { className: "score" }, fixed(score)), facts(metadata), meter(part(score)));
  const first = order.length <= SHOWN + FEW ? order.length : SHOWN;
  const list = make("ol", { className: "hits" }, order.slice(0, first).map(row));
  const rest = order.slice(first, MOST_SHOWN);
  if (!rest.length) return [list];
  const more = make("button", { type: "button", onclick() {
    list.append(...rest.map((one, place) => row(one, place + first)));
    more.remove();
  } }, `Show ${number.format(rest.length)} more`);
  return [list, more];
}

const LANGUAGE = /^lang(uage)?$/i;
const names = new Intl.DisplayNames("en", { type: "language" });

/** A code such as swh or swh_Latn as browsers write it, and its name; null for what is no code. */
function languageOf(code) {
  try {
    const { baseName, language } = new Intl.Locale(String(code).replaceAll("_", "-"));
    return { tag: baseName, name: names.of(language) };
  } catch {
    return null;
  }
}

/** The language of a text as an attribute, so that a font of its own is chosen, and a voice. */
function spoken(metadata) {
  const found = Object.entries(metadata).filter(([key]) => LANGUAGE.test(key)).map(([, value]) => languageOf(value));
  return found[0] ? { lang: found[0].tag } : {};
}

/** What else is known of a text: its language by name, other words and numbers beside their keys. */
function facts(metadata) {
  const known = Object.entries(metadata).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value)).slice(0, MOST_FACTS);
  const fact = ([key, value]) => {
    const language = LANGUAGE.test(key) && languageOf(value);
    return language ? make("b", { title: value }, language.name) : make("span", {}, `${key} `, make("bdi", {}, `${value}`));
  };
  return known.length ? make("span", { className: "facts" }, known.map(fact)) : "";
}

/** A table of numbers whose colour says the same, from the smallest to the largest of them; and the closest pairs. */
export function heatMap(texts, rows) {
  const scores = rows.map((a) => rows.map((b) => dot(a, b)));
  const pairs = texts.flatMap((_, i) => texts.slice(0, i).map((_, j) => ({ i, j, score: scores[i][j] }))).sort((a, b) => b.score - a.score);
  const high = pairs[0].score, low = pairs.at(-1).score;
  const cell = (score, i, j) => (i === j ? make("td", { className: "self" }, "·") : make("td", {
    title: `${texts[i]}\n${texts[j]}`, style: { "--part": (score - low) / (high - low || 1) },
  }, fixed(score)));
  const row = (text, i) => make("tr", {},
    make("th", { scope: "row", title: text }, make("b", {}, `${i + 1}`), make("bdi", {}, text)),
    scores[i].map((score, j) => cell(score, i, j)));
  const table = make("table", { className: "heat" }, make("caption", { className: "unseen" }, "Cosine of each pair"),
    make("thead", {}, make("tr", {}, make("td", {}), texts.map((_, j) => make("th", { scope: "col" }, `${j + 1}`)))),
    make("tbody", {}, texts.map(row)));
  const pair = ({ i, j, score }) => make("li", {},
    make("span", {}, make("span", { dir: "auto" }, texts[j]), make("span", { dir: "auto" }, texts[i])),
    make("span", { className: "score" }, fixed(score)));
  const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Similarity of each pair" }, table);
  const edges = () => { // where more is to be seen at the right it fades; a shadow is where something is behind
    const hidden = scroll.scrollWidth - scroll.clientWidth, at = Math.abs(scroll.scrollLeft);
    scroll.classList.toggle("wider", hidden > 1);
    scroll.classList.toggle("before", at > 1);
    scroll.classList.toggle("after", at < hidden - 1);
  };
  scroll.addEventListener("scroll", edges, { passive: true });
  new ResizeObserver(edges).observe(scroll);
  return [
    scroll, make("p", { className: "said aside" }, "Scroll sideways to see all of it."),
    make("p", { className: "said" }, fixed(low), make("span", { className: "key" }), fixed(high)),
    make("h2", {}, "Closest"), make("ol", { className: "pairs" }, pairs.slice(0, MOST_PAIRS).map(pair)),
  ];
}

/** The guesses for one of the masks of a text, each with the text as it would be. */
export function fills(text, guesses, place, count) {
  const before = text.split("<mask>").slice(0, place + 1).join("<mask>");
  const row = ({ token, score, text: whole }) => {
    const at = whole.indexOf(token, Math.max(0, before.trimEnd().length));
    const parts = at < 0 ? [whole] : [whole.slice(0, at), make("mark", {}, token), whole.slice(at + token.length)];
    return make("li", {}, make("bdi", { className: "token" }, token), meter(score), make("span", { className: "score" }, percent(score)),
      make("span", { className: "whole", dir: "auto" }, ...parts));
  };
  return [count > 1 ? make("h2", {}, `Mask ${place + 1}`) : "", make("ol", { className: "fills" }, guesses.map(row))];
}

/** Tokens as chips in the direction of their text. A byte that is no character alone shows as a hexadecimal number. */
export function tokenRows(texts, found) {
  const counts = found.map((tokens) => tokens.filter((token) => !token.special).length);
  const rates = texts.map((text, place) => bytes(text) / (counts[place] || 1));
  const top = Math.max(...rates);
  const said = (text, place) => make("p", { className: "said" }, make("span", {}, make("strong", {}, fixed(rates[place])), " bytes a token"),
    make("span", {}, [counted(counts[place], "token"), counted(bytes(text), "byte"), counted([...text].length, "character")].join(" · ")));
  return texts.map((text, place) => make("div", { className: "token-rows" }, said(text, place), meter(rates[place] / top),
    make("div", { className: "cut", dir: directionOf(text) }, found[place].map(chip))));
}

function chip({ id, text, token, special, bytes: size }) {
  const byte = /^<0x([0-9A-F]{2})>$/.exec(token)?.[1];
  const shown = special ? token : byte ?? text;
  return make("span", { className: `chip ${special ? "special" : byte ? "byte" : ""}`, title: `token ${id}, ${counted(size, "byte")}` },
    make("bdi", {}, shown.replace(/ /g, "·").replace(/\n/g, "↵")), make("small", {}, `${id}`));
}

/** As dir=auto decides, for boxes whose own content begins with markup: the first letter that has a direction. */
function directionOf(text) {
  const letter = /\p{L}/u.exec(text)?.[0] ?? "";
  return /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Adlam}]/u.test(letter) ? "rtl" : "ltr";
}

/** Each text with its classes, best first. */
export function judged(texts, found) {
  const label = ({ label, score }, place) => [make("bdi", { className: place ? "" : "best" }, label), meter(score), make("span", {}, percent(score))];
  const names = Math.min(MOST_NAME, Math.max(...found.flat().map(({ label }) => [...label].length))); // one width for all
  const row = (scores, place) => make("li", {}, make("span", { dir: "auto" }, texts[place]),
    make("div", { className: "labels", style: { "--names": `${names}ch` } }, [...scores].sort((a, b) => b.score - a.score).slice(0, MOST_LABELS).flatMap(label)));
  return make("ul", { className: "rows" }, found.map(row));
}

/** The text with its entities marked. Spans count code points, as Python does, not JavaScript's units. */
export function story(text, spans) {
  const letters = [...text], kinds = [...new Set(spans.map(({ label }) => label))], parts = [];
  let at = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    if (span.start < at) continue;
    parts.push(letters.slice(at, span.start).join(""));
    parts.push(make("span", { className: `entity tone-${kinds.indexOf(span.label) % 6}`, title: percent(span.score) },
      letters.slice(span.start, span.end).join(""), make("small", { dir: "ltr" }, span.label)));
    at = span.end;
  }
  return make("div", { className: "story", dir: directionOf(text) }, ...parts, letters.slice(at).join(""));
}
