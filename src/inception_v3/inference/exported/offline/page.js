"use strict";
const byId = (id) => document.getElementById(id);
const facts = JSON.parse(byId("page-data").textContent);
const description = JSON.parse(byId("description").textContent);
const SHOWN = 5; // classes of an image
const images = new Map(); // by number: { file, name, element, scores, fault, ... }
let language = (navigator.language || "en").toLowerCase().startsWith("zh") ? 1 : 0;
let state = { key: "loading" };
let worker = null;
let isBusy = false;
let broken = null; // the key of a text and its values, once the network cannot run
let count = 0;

/** Characters that are invisible or change the direction of a text are shown by their number. */
const visible = (text) => String(text).replace(/\p{C}|[\u2028\u2029]/gu, (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
const classNames = facts.class_names.map(visible);

function text(key, values = {}) {
  return facts.texts[key][language].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function element(tag, className, content = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = content;
  return made;
}

const format = (value) => (facts.activation === "none" ? value.toFixed(3) : `${(100 * value).toFixed(1)}\u00a0%`);

function translate() {
  document.documentElement.lang = ["en", "zh"][language];
  byId("language").value = language;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  byId("subtitle").textContent = text("subtitle", { count: facts.class_names.length });
  byId("made").textContent = text("made_by", facts);
  const note = { none: "values", sigmoid: description.settings.num_classes > 1 && "each" }[facts.activation];
  byId("note").hidden = !note;
  if (note) byId("note").textContent = text(note);
  showFacts();
  showStatus();
  for (const image of images.values()) show(image);
}

function showStatus() {
  byId("status").textContent = broken ? "" : text(state.key, state);
  byId("fault").hidden = !broken;
  if (broken) byId("fault").textContent = text(broken.key, broken);
  byId("clear").hidden = images.size === 0;
  byId("empty").hidden = images.size > 0;
}

function showFacts() {
  const { check, precision, int8_share: share, weights } = description;
  const [height, width] = facts.preprocessing.image_size;
  const names = classNames.slice(0, 100).join(", ") + (classNames.length > 100 ? " …" : "");
  const rows = [
    ["facts_classes", names],
    ["facts_precision", share ? text("share", { precision, value: `${(100 * share).toFixed(1)}\u00a0%` }) : precision],
    ["facts_input", `${width}×${height}, ${facts.preprocessing.interpolation}`],
  ];
  if (check) {
    const values = { count: check.pictures };
    const same = { ...values, value: `${(100 * check.top_1_agreement).toFixed(1)}\u00a0%` };
    const largest = { ...values, value: check.max_difference.toPrecision(2) };
    rows.push(["facts_check", check.preparation === "none" ? text("noise", largest) : text("agreement", same)]);
    if (check.accuracy !== null) rows.push(["facts_accuracy", `${(100 * check.accuracy).toFixed(1)}\u00a0%`]);
  }
  if (weights) rows.push(["facts_weights", weights]);
  byId("facts").replaceChildren(...rows.flatMap(([key, value]) => [element("dt", "", text(key)), element("dd", "", value)]));
}

/** Fill the card of an image. */
function show(image) {
  const body = image.element.querySelector(".body");
  image.element.ariaBusy = String(!image.scores && !image.fault && !broken);
  const title = element("div", "name");
  const remove = element("button", "", "✕");
  remove.type = "button";
  remove.ariaLabel = text("remove", { file: image.name });
  remove.onclick = () => discard(image);
  const heading = element("h3");
  heading.append(element("bdi", "", image.name));
  title.append(heading, remove);
  const parts = [title];
  if (image.fault) {
    parts.push(element("p", "", text(image.fault, image)));
  } else if (!image.scores) {
    parts.push(element("p", "soft", broken ? text(broken.key, broken) : text("waiting")));
  } else {
    parts.push(element("p", "soft", text("size", image)), classList(image));
    if (classNames.length > SHOWN) parts.push(moreButton(image));
  }
  const canvas = image.element.querySelector("canvas");
  if (canvas) canvas.ariaLabel = text("picture", { file: image.name });
  const focused = body.contains(document.activeElement) ? document.activeElement.className : null;
  body.replaceChildren(...parts);
  if (focused !== null) [...body.querySelectorAll("button")].find((button) => button.className === focused)?.focus();
}

function classList({ scores, all }) {
  const order = [...scores.keys()].sort((first, second) => scores[second] - scores[first]);
  const list = element("ol", "classes");
  if (all) list.tabIndex = 0;
  const [low, high] = facts.activation === "none" ? [Math.min(...scores), Math.max(...scores)] : [0, 1];
  for (const index of all ? order : order.slice(0, SHOWN)) {
    const line = element("div");
    line.append(element("bdi", "", classNames[index]), element("span", "", format(scores[index])));
    const bar = element("i");
    bar.ariaHidden = "true";
    bar.style.setProperty("--part", `${(100 * (scores[index] - low)) / Math.max(high - low, 1e-9)}%`);
    const item = element("li");
    item.append(line, bar);
    list.append(item);
  }
  return list;
}

function moreButton(image) {
  const key = image.all ? "less" : "more";
  const button = element("button", "more", text(key, { count: image.all ? SHOWN : classNames.length }));
  button.type = "button";
  button.ariaExpanded = String(Boolean(image.all));
  button.onclick = () => {
    image.all = !image.all;
    show(image);
  };
  return button;
}

function add(files) {
  const chosen = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  if (!chosen.length) {
    state = { key: "no_files" };
    showStatus();
  }
  for (const file of chosen) {
    const image = { id: ++count, file, name: visible(file.name || text("pasted")) };
    image.element = element("li");
    image.element.append(element("div", "picture", "…"), element("div", "body"));
    images.set(image.id, image);
    byId("results").append(image.element);
    show(image);
  }
  sendNext();
  if (chosen.length) progress();
}

/** Give the worker the next image, one at a time, so that a removed image costs nothing. */
function sendNext() {
  const next = [...images.values()].find((image) => !image.scores && !image.fault);
  if (!worker || isBusy || !next) return;
  isBusy = true;
  worker.postMessage({ id: next.id, file: next.file });
}

function discard(image) {
  images.delete(image.id);
  const next = image.element.nextElementSibling ?? image.element.previousElementSibling;
  image.element.remove();
  (next?.querySelector("button") ?? byId("files")).focus();
  progress();
}

function progress() {
  const all = [...images.values()];
  const done = all.filter((image) => image.scores || image.fault);
  const timed = all.filter((image) => image.scores);
  const seconds = timed.reduce((sum, image) => sum + image.milliseconds, 0) / 1000 / Math.max(1, timed.length);
  if (!worker) {
    // the state says how far the network is
  } else if (done.length < all.length) {
    state = { key: "working", done: done.length, count: all.length };
  } else if (timed.length === 1 && all.length === 1) {
    const best = timed[0].scores.indexOf(Math.max(...timed[0].scores));
    const [file, name, value] = [timed[0].name, classNames[best], format(timed[0].scores[best])];
    state = { key: "finished_one", file, name, value, seconds: seconds.toFixed(2) };
  } else {
    state = timed.length ? { key: "finished", count: timed.length, seconds: seconds.toFixed(2) } : { key: "ready" };
  }
  showStatus();
}

function receive({ data }) {
  if (data.ready) return start();
  if (data.id === undefined) return stop("engine", data.reason);
  isBusy = false;
  const image = images.get(data.id);
  if (!image) return sendNext(); // removed meanwhile
  if (data.fault) {
    [image.fault, image.reason] = [data.fault, data.reason];
    image.element.querySelector(".picture").textContent = "⚠";
  } else {
    [image.scores, image.milliseconds, [image.width, image.height]] = [data.scores, data.milliseconds, data.size];
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [data.small.width, data.small.height];
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(data.small);
    canvas.role = "img";
    image.element.querySelector(".picture").replaceChildren(canvas);
  }
  image.file = null;
  show(image);
  progress();
  return sendNext();
}

let starting = null; // the worker before it is ready
function start() {
  worker = starting;
  state = { key: "ready" };
  document.body.dataset.ready = String(Math.round(performance.now()));
  sendNext();
  progress();
}

function stop(key, reason) {
  broken = { key, reason: visible(reason) };
  showStatus();
  for (const image of images.values()) show(image);
}

/** The bytes of a data block: base64 of a gzip stream. The block is emptied, which frees its memory. */
async function unpack(id) {
  const block = byId(id);
  const encoded = block.textContent;
  block.textContent = "";
  let bytes;
  if (Uint8Array.fromBase64) {
    bytes = Uint8Array.fromBase64(encoded);
  } else {
    const characters = atob(encoded);
    bytes = new Uint8Array(characters.length);
    for (let index = 0; index < bytes.length; index++) bytes[index] = characters.charCodeAt(index);
  }
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function load() {
  if (!window.DecompressionStream || !window.OffscreenCanvas || !window.WebAssembly) return stop("old_browser", "");
  let parts;
  try {
    parts = await Promise.all(["worker-data", "wasm-data", "network-data"].map(unpack));
  } catch (error) {
    return stop("damaged", error.message);
  }
  const [script, wasm, network] = parts;
  state = { key: "starting" };
  showStatus();
  starting = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  starting.onmessage = receive;
  starting.onerror = (event) => stop("engine", event.message || "worker");
  const { preprocessing, activation, output } = facts;
  return starting.postMessage({ network, wasm, settings: { preprocessing, activation, output } }, [network, wasm]);
}

byId("language").onchange = (event) => {
  language = Number(event.target.value);
  translate();
};
byId("files").onchange = (event) => {
  add(event.target.files);
  event.target.value = "";
};
byId("clear").onclick = () => {
  for (const image of images.values()) image.element.remove();
  images.clear();
  byId("files").focus();
  progress();
};
let inside = 0; // drag events come for each element that the pointer enters
addEventListener("dragenter", () => byId("drop").classList.toggle("over", ++inside > 0));
addEventListener("dragleave", () => byId("drop").classList.toggle("over", --inside > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  byId("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
});
translate();
load();
