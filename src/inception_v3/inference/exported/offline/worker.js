// Runs beside the page, so that the page stays usable: decodes an image, prepares it, and runs the network.
// `ort`, ONNX Runtime, and the function `prepare` stand above in the same script.

const TILE = 4096; // browsers limit the sides of a canvas
const MAX_PIXELS = 178956970; // as in images/decode.py
let session, facts;

self.onmessage = ({ data }) => (data.network ? start(data) : answer(data));

async function start({ network, wasm, settings }) {
  try {
    facts = settings;
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1; // a page from a file has no shared memory
    ort.env.logLevel = "error";
    session = await ort.InferenceSession.create(new Uint8Array(network), { executionProviders: ["wasm"] });
    self.postMessage({ ready: true });
  } catch (error) {
    self.postMessage({ fault: "engine", reason: String(error.message ?? error) });
  }
}

/** Reply with the values of the classes and a small picture, or with the key of a text that says what is wrong. */
async function answer({ id, file }) {
  let fault = "unreadable";
  try {
    const started = performance.now();
    const bitmap = await decode(file);
    fault = "too_large";
    if (bitmap.width * bitmap.height > MAX_PIXELS) throw new Error(`${bitmap.width}x${bitmap.height} pixels`);
    const small = await thumbnail(bitmap);
    const image = pixels(bitmap);
    bitmap.close();
    fault = "engine";
    const values = prepare(image, facts.preprocessing);
    const tensor = new ort.Tensor("uint8", values, [1, ...facts.preprocessing.image_size, 3]);
    const outputs = await session.run({ [session.inputNames[0]]: tensor }, [facts.output]);
    const scores = activate(outputs[facts.output].data, facts.activation);
    const size = [image.width, image.height];
    self.postMessage({ id, scores, size, small, milliseconds: performance.now() - started }, [small]);
  } catch (error) {
    self.postMessage({ id, fault, reason: String(error.message ?? error) });
  }
}

/** Decode an image file, without the conversion of colours, upright by its EXIF orientation. */
async function decode(file) {
  const [plain, orientation] = await withoutOrientation(file);
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(plain, options);
  return orientation > 1 ? createImageBitmap(turn(pixels(bitmap), orientation)) : bitmap;
}

/** A WebP file without its EXIF orientation, which some browsers ignore, and the orientation; else the file and 1. */
async function withoutOrientation(file) {
  const start = new TextDecoder("latin1").decode(await file.slice(0, 16).arrayBuffer());
  if (!start.startsWith("RIFF") || start.slice(8) !== "WEBPVP8X") return [file, 1];
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length; at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) % 2)) {
    if (view.getUint32(at) !== 0x45584946) continue; // "EXIF"
    bytes.set([0x4a, 0x55, 0x4e, 0x4b], at); // "JUNK", which decoders skip
    bytes[20] &= ~8; // the flag that says there is EXIF
    return [new Blob([bytes], { type: "image/webp" }), exifOrientation(view, at + 8)];
  }
  return [file, 1];
}

/** The orientation in an EXIF block, from 1 to 8; 1 if there is none or the block is damaged. */
function exifOrientation(view, start) {
  try {
    const base = view.getUint32(start) === 0x45786966 ? start + 6 : start; // "Exif"
    const isLittle = view.getUint16(base) === 0x4949;
    const entries = base + view.getUint32(base + 4, isLittle);
    for (let index = 0; index < view.getUint16(entries, isLittle); index++) {
      const entry = entries + 2 + index * 12;
      const value = view.getUint16(entry + 8, isLittle);
      if (view.getUint16(entry, isLittle) === 274) return value >= 1 && value <= 8 ? value : 1;
    }
  } catch {
    // outside the file
  }
  return 1;
}

/** Turn an image upright. */
function turn({ width, height, data }, orientation) {
  const [columns, rows] = orientation > 4 ? [height, width] : [width, height];
  const [right, bottom] = [width - 1, height - 1];
  const source = [
    null, (x, y) => [x, y], (x, y) => [right - x, y], (x, y) => [right - x, bottom - y], (x, y) => [x, bottom - y],
    (x, y) => [y, x], (x, y) => [y, bottom - x], (x, y) => [right - y, bottom - x], (x, y) => [right - y, x],
  ][orientation];
  const turned = new ImageData(columns, rows);
  const [from, to] = [new Uint32Array(data.buffer), new Uint32Array(turned.data.buffer)];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const [column, row] = source(x, y);
      to[y * columns + x] = from[row * width + column];
    }
  }
  return turned;
}

/** The RGBA values of an image, on white where it is transparent. */
function pixels(bitmap) {
  const { width, height } = bitmap;
  const data = new Uint8ClampedArray(width * height * 4);
  const canvas = new OffscreenCanvas(Math.min(width, TILE), Math.min(height, TILE));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += TILE) {
      const [columns, rows] = [Math.min(TILE, width - left), Math.min(TILE, height - top)];
      context.fillRect(0, 0, columns, rows);
      context.drawImage(bitmap, -left, -top);
      const tile = context.getImageData(0, 0, columns, rows).data;
      for (let y = 0; y < rows; y++) {
        data.set(tile.subarray(y * columns * 4, (y + 1) * columns * 4), ((top + y) * width + left) * 4);
      }
    }
  }
  return { width, height, data };
}

function thumbnail(bitmap) {
  const ratio = Math.min(1, 480 / Math.max(bitmap.width, bitmap.height));
  const [resizeWidth, resizeHeight] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * ratio)));
  return createImageBitmap(bitmap, { resizeWidth, resizeHeight, resizeQuality: "high" });
}

/** The values that are shown, as network/probabilities.py computes them: probabilities, or without activation the logits. */
function activate(logits, activation) {
  if (activation === "sigmoid" && logits.length === 1) return activate([0, logits[0]], "softmax"); // two classes
  if (activation === "none") return Array.from(logits);
  if (activation === "sigmoid") return Array.from(logits, (value) => 1 / (1 + Math.exp(-value)));
  const highest = logits.reduce((first, second) => Math.max(first, second), -Infinity);
  const powers = Array.from(logits, (value) => Math.exp(value - highest));
  const total = powers.reduce((first, second) => first + second, 0);
  return powers.map((power) => power / total);
}
