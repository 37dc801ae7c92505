// Requests to the server of this page, and what it says when it cannot answer.

import { counted } from "./drawing.js";

const KEY = "mmbert-key";
const BATCH = 64; // texts a request, so that the bar moves and Stop stops
const PATIENCE = 6; // times that a busy server is asked
const KEPT = 50_000; // vectors

export const TITLES = {
  0: "The server does not answer.",
  401: "The server wants a key.",
  403: "The server wants another key.",
  404: "The server does not know this.",
  413: "That is too much at once.",
  422: "The server cannot read this.",
  429: "The server is busy.",
  503: "The server is not ready.",
};

/** What went wrong, in words for the person at the page. status: of HTTP, 0 without an answer, -1 for the page's own. */
export class Problem extends Error {
  constructor(status, message, wait = 1) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** What a refusal says, in each of the forms that the routes have. */
function readRefusal(text) {
  try {
    const found = JSON.parse(text);
    return found.error?.message ?? found.message ?? (typeof found.error === "string" ? found.error : text);
  } catch {
    return text.slice(0, 300);
  }
}

/** GET, or POST where there is a body; the answer's JSON. Throws Problem, or AbortError once the signal says so. */
export async function ask(path, body = null, signal = undefined) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (hasKey()) headers.authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "Is it still running? This page goes on as soon as it is back.");
  }
  if (response.ok) return response.json();
  throw new Problem(response.status, readRefusal(await response.text()), Number(response.headers.get("retry-after")) || 1);
}

/** Like ask, but a busy server is asked again after the time that it names. */
export async function post(path, body, task) {
  const whole = { ...body, model: task.model.id };
  task.sent(path, whole);
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask(path, whole, task.signal);
    } catch (error) {
      if (error.status !== 429 || tries === PATIENCE) throw error;
      task.say(`The server is busy. Trying again in ${counted(Math.ceil(error.wait), "second")} …`);
      await new Promise((resolve) => setTimeout(resolve, error.wait * 1000));
      task.signal.throwIfAborted();
    }
  }
}

const vectors = new Map(); // by model, prompt and text

/** A vector of unit length for each text. A text is sent once; role: query or document, for models that have such prompts. */
export async function embed(texts, role, task) {
  const prompt = task.model.prompts.includes(role) ? { prompt_name: role } : {};
  const name = (text) => JSON.stringify([task.model.id, prompt, text]);
  if (vectors.size > KEPT) vectors.clear();
  const missing = [...new Set(texts)].filter((text) => !vectors.has(name(text)));
  for (let start = 0; start < missing.length; start += BATCH) {
    const inputs = missing.slice(start, start + BATCH);
    const found = await post("embed", { inputs, ...prompt }, task);
    found.forEach((vector, place) => vectors.set(name(inputs[place]), Float32Array.from(vector)));
    if (missing.length > BATCH) task.progress(start + inputs.length, missing.length);
  }
  return texts.map((text) => vectors.get(name(text)));
}
