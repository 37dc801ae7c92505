// The playground: forms in, requests to the server, answers as elements.

import { all, counted, dot, fills, find, heatMap, hits, judged, make, number, story, tokenRows } from "./drawing.js";
import { ask, embed, hasKey, post, Problem, setKey, TITLES } from "./server.js";

const MOST_COMPARED = 40;
const MOST_CUT = 50;
const MOST_JUDGED = 200;
const MOST_FOUND = 50;

/** Titles of tabs in their order, and the routes that a model has to have, one of them, for each. */
const TABS = {
  search: ["Search", "/embed", "/rerank"],
  compare: ["Compare", "/embed"],
  fill: ["Fill", "/fill_mask"],
  classify: ["Classify", "/predict"],
  entities: ["Entities", "/token_classify"],
  tokens: ["Tokens", "/tokenize"],
};

let models = []; // {id, routes, prompts, tuned} of each that the server has

// ── what each tab does: a task in, what is said of the answer and its elements out ──────────────────────────────────

const RUNS = {
  async search(task) {
    const query = find("#query").value.trim(), index = task.model.indexes.find(({ name }) => name === find("#place").value);
    if (index) {
      const found = await post("search", { inputs: query, index: index.name, top_k: MOST_FOUND }, task);
      return [found.length ? `The best of ${counted(index.records, "text")} in ${index.name}` : `No texts in ${index.name}`, ...hits(found)];
    }
    const texts = some(task.lines, "Paste some texts first, or take the examples.");
    const scores = task.model.routes.includes("/embed") ? await nearest(query, texts, task) : await rerank(query, texts, task);
    return [`The best of ${counted(texts.length, "text")}`, ...hits(texts.map((text, place) => ({ text, score: scores[place] })))];
  },

  async compare(task) {
    const texts = some(task.lines, "Write at least two sentences, one a line.", 2);
    if (texts.length > MOST_COMPARED) throw new Problem(-1, `${texts.length} sentences do not fit on a page: at most ${MOST_COMPARED}.`);
    return [counted(texts.length, "sentence"), ...heatMap(texts, await embed(texts, "document", task))];
  },

  async fill(task) {
    const text = find("#masked").value;
    if (!text.includes("<mask>")) throw new Problem(-1, "Write <mask> where a token is to be guessed.");
    const masks = await post("fill_mask", { inputs: text, top_k: 6 }, task);
    return [counted(masks.length, "mask"), ...masks.flatMap((guesses, place) => fills(text, guesses, place, masks.length))];
  },

  async tokens(task) {
    const texts = some(task.lines, "Write some text first.").slice(0, MOST_CUT);
    const found = await post("tokenize", { inputs: texts, add_special_tokens: true }, task);
    return [counted(texts.length, "text"), ...tokenRows(texts, found)];
  },

  async classify(task) {
    const texts = some(task.lines, "Write some text first.").slice(0, MOST_JUDGED);
    const found = await post("predict", { inputs: texts.map((text) => [text]) }, task);
    return [counted(texts.length, "text"), judged(texts, found)];
  },

  async entities(task) {
    const text = find("#tagged").value;
    const spans = await post("token_classify", { inputs: text }, task);
    return [spans.length ? counted(spans.length, "entity", "entities") : "No entities in this text", story(text, spans)];
  },
};

function some(lines, otherwise, least = 1) {
  if (lines.length < least) throw new Problem(-1, otherwise);
  return lines;
}

async function nearest(query, texts, task) {
  const rows = await embed(texts, "document", task);
  const [asked] = await embed([query], "query", task);
  return rows.map((row) => dot(row, asked));
}

async function rerank(query, texts, task) {
  const scores = new Array(texts.length);
  for (const { index, score } of await post("rerank", { query, texts }, task)) scores[index] = score;
  return scores;
}

// ── running: one task a form at a time ──────────────────────────────────────────────────────────────────────────────

const running = new Map(); // form -> AbortController

async function run(form) {
  const out = find("[data-out]", form.closest("section")), area = find("[data-lines] textarea", form);
  running.get(form)?.abort();
  const stop = new AbortController();
  running.set(form, stop);
  const said = make("p", { className: "said", role: "status" });
  const task = {
    model: models.find(({ id }) => id === find("#model").value),
    signal: stop.signal,
    lines: area ? linesOf(area) : [],
    sent: showRequest,
    say: (text) => said.replaceChildren(text),
    progress: (done, whole) => said.replaceChildren(
      make("progress", { max: whole, value: done, ariaLabel: "Texts read" }), `${number.format(done)} of ${counted(whole, "text")}`,
      make("button", { type: "button", onclick: () => stop.abort() }, "Stop"),
    ),
  };
  form.ariaBusy = "true";
  all(".notice, .said", out).forEach((old) => old.remove());
  out.prepend(said);
  const began = performance.now();
  try {
    const [about, ...elements] = await RUNS[form.dataset.run](task);
    showState("ok", "ready");
    task.say(`${about}, ${number.format(Math.round(performance.now() - began))} ms`);
    out.replaceChildren(said, ...elements);
  } catch (error) {
    if (running.get(form) !== stop) return; // another run took its place
    if (error.name === "AbortError") task.say("Stopped.");
    else out.replaceChildren(explain(error, () => run(form)));
  } finally {
    if (running.get(form) === stop) {
      running.delete(form);
      form.ariaBusy = "false";
    }
  }
}

/** What went wrong and what to do, as an element; a key is asked for where one is missing. */
function explain(error, again) {
  if (!(error instanceof Problem)) throw error;
  if (error.status === 401 || error.status === 403) askForKey(again);
  if (error.status === 0) waitForServer("gone", "no answer");
  if (error.status === 503) waitForServer("wait", "loading");
  const title = TITLES[error.status] ?? (error.status > 0 ? `The server failed (${error.status}).` : "");
  return make("p", { className: "notice error", role: "alert" }, title && make("strong", {}, title), make("span", {}, error.message));
}

function askForKey(then) {
  const form = find("#key-form"), field = find("#key");
  find("label", form).textContent = hasKey() ? "This key is not known to the server." : "This server asks for a key.";
  form.hidden = false;
  field.focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    setKey(field.value);
    field.value = "";
    form.hidden = true;
    then();
  };
}

let waiting = 0;
function waitForServer(state, text) {
  clearTimeout(waiting);
  showState(state, text);
  waiting = setTimeout(async () => {
    const back = await fetch("health").then((response) => response.ok, () => false);
    if (!back) waitForServer(state, text);
    else if (models.length) showState("ok", "ready");
    else start();
  }, 2000);
}

function showState(state, text) {
  const place = find("#state");
  place.dataset.state = state;
  if (place.textContent !== text) place.textContent = text;
}

/** The request as a line for a terminal; of a long list its first texts. */
function showRequest(path, body) {
  const short = (value) => (Array.isArray(value) && JSON.stringify(value).length > 400 ? value.slice(0, 3) : value);
  const sent = JSON.stringify(Object.fromEntries(Object.entries(body).map(([name, value]) => [name, short(value)])));
  const key = hasKey() ? '\n  -H "authorization: Bearer $MMBERT_API_KEY" \\' : "";
  find("#request code").textContent =
    `curl ${new URL(path, document.baseURI)} \\${key}\n  -H 'content-type: application/json' \\\n  -d '${sent.replaceAll("'", "'\\''")}'`;
  find("#request").hidden = false;
}

// ── tabs and models ─────────────────────────────────────────────────────────────────────────────────────────────────

const able = (tab) => models.filter(({ routes }) => TABS[tab].slice(1).some((route) => routes.includes(route)));

function showTabs() {
  const tab = ([name, [title]]) => make("button", {
    type: "button", role: "tab", id: `tab-${name}`, ariaSelected: "false", tabIndex: -1, "aria-controls": name, onclick: () => choose(name),
  }, title);
  const possible = Object.entries(TABS).filter(([name]) => able(name).length);
  find("#tabs").replaceChildren(...possible.map(tab));
  const wanted = location.hash.slice(1);
  if (possible.length) choose(possible.some(([name]) => name === wanted) ? wanted : possible[0][0]);
}

function choose(name, focus = false) {
  for (const tab of all("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.ariaSelected = `${chosen}`;
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) centre(tab);
    if (chosen && focus) tab.focus();
  }
  for (const panel of all("[role=tabpanel]")) panel.hidden = panel.id !== name;
  const field = find("#model"), before = field.value, fitting = able(name);
  field.replaceChildren(...fitting.map(({ id }) => make("option", { value: id }, id)));
  if (fitting.some(({ id }) => id === before)) field.value = before;
  find("#model-field").hidden = false;
  field.disabled = fitting.length === 1;
  history.replaceState(null, "", `#${name}`);
  showModel();
}

/** Scroll the list of tabs alone: scrollIntoView would also move the place where the Tab key begins. */
function centre(tab) {
  const list = tab.parentElement;
  list.scrollLeft = tab.offsetLeft - list.offsetLeft - (list.clientWidth - tab.offsetWidth) / 2;
}

/** What goes with the model: its indexes, and a hint; one that was only pretrained says less of meaning than its scores suggest. */
function showModel() {
  const { tuned, indexes } = models.find(({ id }) => id === find("#model").value);
  for (const hint of all("[data-untuned]")) hint.hidden = tuned;
  const field = find("#place"), before = field.value;
  field.replaceChildren(...indexes.map(({ name, records }) => make("option", { value: name }, `${name}, ${counted(records, "text")}`)),
    make("option", { value: "" }, "texts of your own"));
  if (indexes.some(({ name }) => name === before)) field.value = before;
  find("#place-field").hidden = !indexes.length;
  showPlace();
}

/** Texts to paste are of no use while an index is searched. */
function showPlace() {
  find("#search [data-lines]").hidden = find("#place").value !== "";
}

function moveAlongTabs(event) {
  const tabs = all("[role=tab]"), at = tabs.indexOf(document.activeElement);
  const steps = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 };
  if (at < 0 || !(event.key in steps)) return;
  event.preventDefault();
  choose(tabs.at(steps[event.key] % tabs.length).id.slice(4), true);
}

// ── fields ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const linesOf = (area) => area.value.split("\n").map((line) => line.trim()).filter(Boolean);
const examples = (name) => all(`#${name} li`, find("#examples").content);

function setText(area, text) {
  area.value = text;
  area.dispatchEvent(new Event("input", { bubbles: true }));
}

function prepareField(field) {
  const area = find("textarea", field), file = find("[type=file]", field);
  const read = async (chosen) => setText(area, (await chosen.text()).slice(0, 5_000_000));
  const count = () => { find(".count", field).textContent = area.value ? counted(linesOf(area).length, "text") : ""; };
  if (find(".count", field)) area.addEventListener("input", count);
  find("[data-clear]", field)?.addEventListener("click", () => { setText(area, ""); area.focus(); });
  const fill = find("[data-fill]", field);
  const take = () => setText(area, examples(fill.dataset.fill).map((line) => line.textContent).join("\n"));
  fill?.addEventListener("click", take);
  find("[data-mask]", field)?.addEventListener("click", () => { area.setRangeText("<mask>", area.selectionStart, area.selectionEnd, "end"); area.focus(); });
  if (!file) return fill && take();
  find("[data-open]", field).addEventListener("click", () => file.click());
  file.addEventListener("change", () => file.files[0] && read(file.files[0]).then(() => { file.value = ""; }));
  for (const name of ["dragover", "dragleave", "drop"]) field.addEventListener(name, (event) => {
    event.preventDefault();
    field.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) read(event.dataTransfer.files[0]);
  });
  return take();
}

/** Examples as buttons: a click puts one into the form's field and runs it. */
function prepareChips(chips) {
  const form = chips.closest("form"), area = find("#query, #masked, #tagged", form);
  chips.append(...examples(chips.dataset.examples).map((line) => make("button", {
    type: "button", lang: line.lang, title: line.title, onclick() { setText(area, line.textContent); run(form); },
  }, chips.dataset.examples === "query" ? line.textContent : line.title)));
  chips.role = "group";
  if (area.matches("textarea")) setText(area, examples(chips.dataset.examples)[0].textContent);
}

function prepare() {
  all(".field").forEach(prepareField);
  all(".chips").forEach(prepareChips);
  for (const form of all("form[data-run]")) {
    form.addEventListener("submit", (event) => { event.preventDefault(); run(form); });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
    });
  }
  find("#tabs").addEventListener("keydown", moveAlongTabs);
  find("#model").addEventListener("change", showModel);
  find("#place").addEventListener("change", () => { find("#search [data-out]").replaceChildren(); showPlace(); });
  addEventListener("hashchange", () => location.hash.slice(1) in TABS && find(`#tab-${location.hash.slice(1)}`) && choose(location.hash.slice(1)));
  find("#copy").addEventListener("click", async ({ target }) => {
    await navigator.clipboard.writeText(find("#request code").textContent);
    target.textContent = "Copied";
    setTimeout(() => { target.textContent = "Copy"; }, 1500);
  });
}

/** A head of one label ranks, one of several classifies; tokens are a matter of any model. */
function readModel({ model_id: id, model_type: type, routes, prompts, tuned, indexes }) {
  const other = type.reranker ? "/predict" : "/rerank";
  return { id, indexes, tuned: tuned || !routes.includes("/embed"), prompts: Object.keys(prompts), routes: ["/tokenize", ...routes.filter((route) => route !== other)] };
}

async function start() {
  try {
    models = (await ask("info")).models.map(readModel);
    showState("ok", "ready");
    find("#trouble").replaceChildren();
    showTabs();
  } catch (error) {
    find("#trouble").replaceChildren(explain(error, start));
  }
}

prepare();
start();
