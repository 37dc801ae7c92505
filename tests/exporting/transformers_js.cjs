// node transformers_js.cjs KIND FOLDER DTYPE: texts as JSON on stdin, outputs of transformers.js as JSON on stdout.
const { AutoModel, AutoTokenizer, pipeline, env } = require("@huggingface/transformers");
const fs = require("fs");

const [, , kind, folder, dtype] = process.argv;
env.allowRemoteModels = false;
env.localModelPath = "/";

async function run(texts) {
  if (kind === "ids") {
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    return texts.map((text) => tokenizer.encode(text));
  }
  if (kind === "embedding") {
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    const model = await AutoModel.from_pretrained(folder, { dtype });
    return (await model(tokenizer(texts, { padding: true, truncation: true }))).sentence_embedding.tolist();
  }
  const pipe = await pipeline(kind, folder, { dtype });
  if (kind === "feature-extraction") return (await pipe(texts, { pooling: "mean", normalize: true })).tolist();
  const found = [];
  for (const text of texts) found.push(await pipe(text, { top_k: kind === "fill-mask" ? 5 : null }));
  return found;
}

run(JSON.parse(fs.readFileSync(0))).then((found) => console.log(JSON.stringify(found)));
