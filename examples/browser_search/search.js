// Search texts by their vectors, with a model of `mmbert export --format onnx --output embedding --layout transformers.js`.
// vendor/ holds transformers.js and its runtime, model/ the exported folder: see docs/guides/export.md.
import { AutoModel, AutoTokenizer, env } from "./vendor/transformers.min.js";

const PROMPTS = { query: "", document: "" }; // what the model was tuned with, such as "query: "
const BATCH = 16;

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = new URL(".", import.meta.url).pathname;
env.backends.onnx.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;

const dtype = new URLSearchParams(location.search).get("dtype") ?? "q8"; // fp32, fp16 or q8
const find = (id) => document.getElementById(id);
const button = document.querySelector("button");
let tokenizer, model;

/** Return a vector of unit length for each text. */
async function embed(texts) {
  const vectors = [];
  for (let start = 0; start < texts.length; start += BATCH) {
    const inputs = tokenizer(texts.slice(start, start + BATCH), { padding: true, truncation: true });
    const { sentence_embedding } = await model(inputs);
    vectors.push(...sentence_embedding.normalize(2, -1).tolist());
  }
  return vectors;
}

const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);

function show(hits) {
  find("hits").replaceChildren(...hits.map(({ text, score }) => {
    const item = document.createElement("li"), label = document.createElement("span");
    label.className = "score";
    label.textContent = score.toFixed(3);
    item.append(label, text); // as text, never as HTML
    return item;
  }));
}

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  try {
    const texts = find("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
    const [query] = await embed([PROMPTS.query + find("query").value]);
    const vectors = await embed(texts.map((text) => PROMPTS.document + text));
    const hits = texts.map((text, index) => ({ text, score: dot(query, vectors[index]) }));
    show(hits.sort((a, b) => b.score - a.score).slice(0, 10));
    find("status").textContent = `${texts.length} texts searched.`;
  } catch (error) {
    find("status").textContent = `The search failed: ${error.message}`;
  }
  button.disabled = false;
});

try {
  find("texts").value = (await (await fetch("texts.txt")).text()).trim();
  tokenizer = await AutoTokenizer.from_pretrained("model");
  model = await AutoModel.from_pretrained("model", { dtype, device: "wasm" });
  find("status").textContent = "Ready.";
  button.disabled = false;
} catch (error) {
  find("status").textContent = `The model cannot be loaded: ${error.message}`;
}
