// node tensorflowjs.mjs MODULES model.json images.bin HEIGHT WIDTH outputs.json [logits]
// Runs TensorFlow.js on float32 images (N, HEIGHT, WIDTH, 3), with its WebAssembly backend, which Node finds from the
// folder MODULES. With `logits` the last layer's activation is left out.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const [modules, file, images, height, width, outputs, logits] = process.argv.slice(2);
const require = createRequire(modules + "/");
const tf = require("@tensorflow/tfjs");
require("@tensorflow/tfjs-backend-wasm");
await tf.setBackend("wasm");
await tf.ready();
const model = JSON.parse(fs.readFileSync(file));
if (logits) {
  const { layers } = (model.modelTopology.model_config ?? model.modelTopology).config;
  const last = layers[layers.length - 1].config;
  if ("activation" in last) last.activation = "linear";
}
const shards = model.weightsManifest.flatMap((group) => group.paths);
const data = Buffer.concat(shards.map((shard) => fs.readFileSync(path.join(path.dirname(file), shard))));
const network = await tf.loadLayersModel({
  load: async () => ({
    modelTopology: model.modelTopology,
    weightSpecs: model.weightsManifest.flatMap((group) => group.weights),
    weightData: data.buffer.slice(data.byteOffset, data.byteOffset + data.length),
  }),
});
const pixels = fs.readFileSync(images);
const values = new Float32Array(pixels.buffer, pixels.byteOffset, pixels.length / 4);
const result = network.predict(tf.tensor(values, [values.length / (height * width * 3), +height, +width, 3]));
fs.writeFileSync(outputs, JSON.stringify({ version: tf.version.tfjs, shape: result.shape, values: Array.from(result.dataSync()) }));
