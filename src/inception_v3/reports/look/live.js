// The live page: it fetches from the server what look.js draws. Nothing is kept but in this page's memory.

const MAX_FILES = 12, POINTS = 60, SECONDS = 2, ROWS = 8;
const live = { token: "", models: [], entries: new Map(), queue: Promise.resolve(), session: 0, figures: [], known: false, stream: null };

// ------------------------------------------------------------------------------------------------ the server

async function ask(path, query = {}, body, signal) {
  const parameters = new URLSearchParams(query), headers = live.token ? { Authorization: `Bearer ${live.token}` } : {};
  if (body) headers["Content-Type"] = "application/octet-stream";
  let answer;
  try {
    answer = await fetch(`${path}${parameters.size ? `?${parameters}` : ""}`, { method: body ? "POST" : "GET", headers, body, signal, cache: "no-store" });
  } catch (error) {
    throw signal?.aborted ? error : Object.assign(new Error(text("live_lost")), { lost: true });
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    field("token-form").hidden = false;
    field("live-grid").hidden = true;
    throw Object.assign(new Error(live.token ? text("live_token_wrong") : ""), { needsToken: true });
  }
  if (!answer.ok) throw new Error(content.error || `${answer.status} ${answer.statusText}`);
  return content;
}

const address = model => ({ model: model.name, version: model.version });
const shortLabel = model => model.name + (live.models.filter(each => each.name === model.name).length > 1 ? ` v${model.version}` : "");
const label = model => `${shortLabel(model)} \u00b7 ${model.engine}`;
const chosen = id => live.models[Number(field(id).value)];

function fault(message) {
  field("live-fault").hidden = !message;
  field("live-fault").textContent = message;
}

const waiting = on => field("page").classList.toggle("waiting", on);  // until the first answer of a model

function note(key, values) {
  live.note = key ? [key, values] : null;
  field("live-note").textContent = key ? text(key, values) : "";
}

// ------------------------------------------------------------------------------------------------ one image

async function runFile(file, session) {
  const model = chosen("model-one"), started = performance.now(), name = file.name || "image";
  const entry = live.entries.get(file) || { file, url: URL.createObjectURL(file) };
  live.entries.set(file, entry);
  note("live_working", { image: name });
  const shown = { name, size: [1, 1], box: [0, 0, 1, 1], picture: "data:,", input: "", parts: {}, fields: {}, heads: {}, cams: [], silenced: [],
    not_finite_from: null, missing: {}, lost: [], entry, loading: "" };
  const [answer, picture] = await Promise.all([
    model.has_classes ? ask("predict", { ...address(model), top: 5, name }, file) : null,
    loadImage(entry.url).catch(() => null)]);
  if (session !== live.session) return;
  if (picture) Object.assign(shown, { picture: entry.url, size: [picture.naturalHeight, picture.naturalWidth], box: [0, 0, picture.naturalWidth, picture.naturalHeight] });
  if (answer) {
    shown.heads.Logits = answer.results[0].predictions.map(each => ({ index: data.model.classes.indexOf(each.class), name: each.class, value: each.probability }));
    note("live_answered", { image: name, milliseconds: Math.round(performance.now() - started), engine: model.engine });
  }
  if (picture) add(shown);
  const versus = compare(shown);
  try {
    await lookInside(shown, !picture || file.type !== "image/jpeg");  // without transparency, as the network sees it
    if (!picture) add(shown);  // the browser cannot show its format, so the server sends the image
  } catch (error) {
    if (error.needsToken) throw error;
    shown.missing = { inside: "live_inside" };
    fault(`${name}: ${error.message}`);
  }
  await versus;
}

function add(shown) {
  data.names.push(shown.name);
  data.images.push(shown);
  if (data.names.length > MAX_FILES) {
    const { entry } = data.images[0];
    URL.revokeObjectURL(entry.url);
    live.entries.delete(entry.file);
    for (const list of [data.names, data.images, looks]) list.shift();
  }
  if (!live.shown) {
    live.shown = true;
    waiting(false);
    show(data);
  } else chooseImage(data.names.length - 1);
}

async function lookInside(shown, withPicture) {  // what the first view needs
  const part = state.part, answer = await ask("live/look", { ...address(data.served), show: "view,channels", part, picture: withPicture }, shown.entry.file);
  const { name, heads, parts: values, missing, no_cam_reason: reason, ...rest } = answer;
  Object.assign(shown, rest, { missing });
  Object.assign(shown.heads, heads);
  Object.assign(shown.parts, values);
  shown.prepared = await (await fetchData(shown.input)).blob();
  data.model.no_cam_reason = reason;
  const classes = missing.cams === "exported_no_cams" ? [] : (shown.heads.Logits || []).slice(0, 3).filter(each => each.index >= 0);
  shown.cams = classes.map(each => ({ index: each.index, name: each.name, maps: {}, high: {} }));
  if (look === shown) showAll();
}

function fetchData(uri) {  // a data URI as a response, without a request
  const [, kind, content] = uri.match(/^data:([^;]+);base64,(.*)$/s), bytes = Uint8Array.from(atob(content), each => each.charCodeAt(0));
  return new Response(bytes, { headers: { "Content-Type": kind } });
}

const lookAgain = (shown, query, signal) => ask("live/look", { ...address(data.served), prepared: true, ...query }, shown.prepared, signal);

async function loadPart(name) {  // called by look.js for the selected part
  const shown = look;
  if (!shown.prepared || shown.lost.includes(name)) return;
  live.part?.abort();
  const controller = live.part = new AbortController(), current = () => look === shown && state.part === name;
  try {
    if (!shown.parts[name]) {
      shown.loading = name;
      showChannels();
      const answer = await lookAgain(shown, { show: "channels", part: name }, controller.signal);
      Object.assign(shown.parts, answer.parts);
      shown.loading = "";
      if (current()) showChannels();
    }
    if (!shown.missing.fields && data.model.base.includes(name) && !(name in shown.fields)) {
      const answer = await lookAgain(shown, { show: "field", part: name }, controller.signal);
      Object.assign(shown.fields, answer.fields);
      if (current()) showField();
      if (current()) showChannels();  // the parts of the input beside the maps have the size of the field
    }
  } catch (error) {
    if (shown.loading === name) shown.loading = "";
    if (!controller.signal.aborted) {
      fault(error.message);
      if (current()) showChannels();
    }
  }
}

async function loadCam(cam) {  // called by look.js for a class without heat maps
  const shown = look;
  if (cam.asked) return;
  cam.asked = true;
  try {
    const [found] = (await lookAgain(shown, { show: "cam", class: cam.index })).cams;
    if (found) Object.assign(cam, { maps: found.maps, high: found.high });
    else shown.cams = shown.cams.filter(each => each !== cam);
    if (look === shown) showCam();
    if (look === shown) showVersusPictures();
  } catch (error) {
    fault(error.message);
  }
}

// ------------------------------------------------------------------------------------------------ two models

async function compare(shown) {
  const other = chosen("model-two"), session = live.session;
  shown.versus = null;
  showVersus();
  if (!other || !chosen("model-one").has_classes || !other.has_classes) return;
  try {
    const answers = await Promise.all([chosen("model-one"), other].map(model => ask("predict", { ...address(model), top: 100000 }, shown.entry.file)));
    if (session !== live.session) return;
    const [one, two] = answers.map(answer => new Map(answer.results[0].predictions.map(each => [each.class, each.probability])));
    shown.versus = { other, one, two };
    showVersus();
    const name = [...one.keys()][0], query = { show: "view,cam", class: two.has(name) ? name : [...two.keys()][0] };
    shown.versus.look = await ask("live/look", { ...address(other), ...query }, shown.entry.file);
    showVersusPictures();
  } catch (error) {
    fault(`${other.name}: ${error.message}`);
  }
}

function showVersus() {
  const versus = look?.versus;
  field("versus").hidden = !versus || hidden();
  if (field("versus").hidden) return;
  const { one, two, other } = versus, first = data.served, models = [first, other], names = models.map(shortLabel);
  const points = value => Math.abs(value) < 5e-4 ? "0.0" : `${value < 0 ? "\u2212" : "+"}${(100 * Math.abs(value)).toFixed(1)}`;
  const rows = [...new Set([...one.keys(), ...two.keys()])].map(name => ({ name, one: one.get(name), two: two.get(name), change: (two.get(name) || 0) - (one.get(name) || 0) }))
    .sort((left, right) => Math.abs(right.change) - Math.abs(left.change));
  const [top] = one.keys(), [otherTop] = two.keys();
  field("versus-summary").textContent = top === otherTop ? text("live_same_top", { class: top, difference: text("live_points", { value: points(rows[0].change) }), other: rows[0].name })
    : text("live_other_top", { one: names[0], class: top, two: names[1], other: otherTop });
  const bar = (value, kind) => element("td", { className: `change ${kind}` }, element("span", { className: "track" }, element("i", { "--fraction": Math.max(value || 0, 0) })),
    element("span", { className: "number" }, value === undefined ? "\u2013" : percent(value)));
  field("versus-one").textContent = names[0];
  field("versus-two").textContent = names[1];
  field("versus-rows").replaceChildren(...rows.slice(0, ROWS).map(row => element("tr", { "data-class": row.name },
    element("th", { scope: "row" }, row.name), bar(row.one, "one"), bar(row.two, "two"), element("td", {}, points(row.change)))));
  field("versus-cards").replaceChildren(...[one, two].map((classes, index) => element("div", { "data-model": names[index] },
    element("div", {}, element("h3", {}, names[index]), element("p", { className: "soft" }, models[index].engine)),
    element("div", { className: "stage" }), headBars("main", [...classes].slice(0, 5).map(([name, value]) => ({ name, value }))).querySelector("ol"))));
  showVersusPictures();
}

async function showVersusPictures() {  // each model's heat map, of the same class and layer where both have one
  const shown = look, versus = shown?.versus, cards = field("versus-cards").children;
  if (!versus || cards.length < 2) return;
  const own = shown.cams[0], layer = field("cam-name").textContent, other = versus.look;
  const sides = [[shown, own], ...(other ? [[{ ...other, picture: shown.picture }, other.cams?.[0]]] : [])];
  for (const [index, [view, cam]] of sides.entries()) {
    const maps = cam?.maps || {}, at = maps[layer] ? layer : Object.keys(maps).pop();
    const overlay = at ? await heatMap(maps[at]) : null;
    if (look !== shown || !cards[index]) return;
    drawStage(cards[index].querySelector(".stage"), view, at ? text("picture_cam", { image: shown.name, class: cam.name, layer: at }) : text("picture_plain", { image: shown.name }), overlay, true);
  }
}

// ------------------------------------------------------------------------------------------------ the model

async function chooseModel() {
  const model = chosen("model-one"), session = ++live.session, files = [...live.entries.keys()].slice(-1);
  fault("");
  const given = await ask("live/model", address(model));
  if (session !== live.session) return;
  for (const [file, entry] of live.entries) if (!files.includes(file)) {
    URL.revokeObjectURL(entry.url);
    live.entries.delete(file);
  }
  data = { ...given, texts: data.texts, names: [], images: [], language: state.language, guess: state.guessing, served: model, load: loadPart, loadCam };
  if (state.part && data.model.outline.some(part => part.name === state.part)) data.open = state.part;
  if (!state.part) state.part = data.open;
  live.shown = false;
  waiting(true);
  live.known = true;
  if (files.length) run(files);
}

function run(files) {
  const images = [...files].filter(file => file instanceof Blob).slice(0, MAX_FILES);
  fault(images.length ? files.length > MAX_FILES ? text("live_too_many", { count: MAX_FILES }) : "" : text("live_no_image"));
  for (const file of images) {
    const session = live.session;
    live.queue = live.queue.then(() => session === live.session && live.known ? runFile(file, session) : null)
      .catch(error => { note(); fault(error.message && `${file.name || "image"}: ${error.message}`); });
  }
}

function showModels() {
  const selected = ["model-one", "model-two"].map(id => chosen(id));
  for (const [number, id] of ["model-one", "model-two"].entries()) {
    const options = live.models.map((model, index) => element("option", { value: index, selected: model === selected[number] }, label(model)));
    if (number) options.unshift(element("option", { value: -1 }, text("live_none")));
    field(id).replaceChildren(...options);
    field(id).value = Math.max(live.models.indexOf(selected[number]), number ? -1 : 0);
  }
  field("second").hidden = live.models.length < 2;
}

// ------------------------------------------------------------------------------------------------ the server's activity

async function poll() {
  if (document.hidden && live.known) return;
  const { models } = await ask("live/status"), now = performance.now();
  const key = list => JSON.stringify(list.map(each => [each.name, each.version, each.engine]));
  if (key(models) !== key(live.models) || !live.known) {
    const before = live.models;
    for (const id of ["model-one", "model-two"]) {  // keeps the choice: the same version, or else the same name
      const old = before[Number(field(id).value)], same = models.filter(each => each.name === old?.name);
      const kept = same.find(each => each.version === old.version) || same[0];
      field(id).replaceChildren(element("option", { value: models.indexOf(kept), selected: true }));
    }
    live.models = models;
    showModels();
    if (models.length) await chooseModel();
  }
  const model = chosen("model-one"), figures = models.find(each => each.name === model?.name && each.version === model.version);
  if (figures) {
    live.figures.push({ ...figures, now });
    live.figures.splice(0, live.figures.length - POINTS - 1);
    showActivity();
  }
  return models.length;
}

function showActivity() {
  const points = live.figures, steps = points.slice(1).map((point, index) => {
    const before = points[index], seconds = (point.now - before.now) / 1000, same = point.name === before.name && point.version === before.version;
    return { speed: same ? (point.images - before.images) / seconds : 0, busy: same ? Math.min((point.engine_seconds - before.engine_seconds) / seconds, 1) : 0, queue: point.queue };
  });
  if (!steps.length) steps.push({ speed: 0, busy: 0, queue: points[0].queue });
  const graphs = [["speed", value => value.toFixed(1), 1], ["busy", value => `${Math.round(100 * value)} %`, 1], ["queue", value => count(value), 4]];
  field("activity").hidden = false;
  field("graphs").replaceChildren(...graphs.map(([name, format, least]) => {
    const values = steps.map(each => Math.max(each[name], 0)), high = Math.max(...values, least), value = format(values[values.length - 1]);
    const path = values.map((each, index) => `${100 - 100 * (values.length - 1 - index) / (POINTS - 1)} ${29 - 27 * each / high}`);
    const drawn = shape("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": text("live_graph", { what: text(`live_${name}`), value }) },
      shape("path", { d: `M${path[0].split(" ")[0]} 30L${path.join("L")}L100 30Z` }));
    return element("div", { "data-graph": name }, element("div", {}, element("b", {}, value), element("span", {}, text(`live_${name}`))), drawn);
  }));
}

// ------------------------------------------------------------------------------------------------ images from the reader

const SAMPLE = `<svg xmlns="http://www.w3.org/2000/svg" width="480" height="480" viewBox="0 0 48 48"><path fill="#cfe3f1" d="M0 0h48v48H0z"/><path fill="#7fa65a" d="M0 38h48v10H0z"/>
<path fill="#8a5a2b" d="M11 8l8 6h10l8-6 1 14c1 10-6 17-14 17S9 32 10 22z"/><path fill="#e8b48c" d="M13 12l4 4-4 3zM35 12l-4 4 4 3z"/><ellipse cx="24" cy="30" rx="8" ry="6" fill="#f3e3d0"/>
<g fill="#f5d94a"><circle cx="17.5" cy="22" r="3.6"/><circle cx="30.5" cy="22" r="3.6"/></g><ellipse cx="17.5" cy="22" rx="1.2" ry="3"/><ellipse cx="30.5" cy="22" rx="1.2" ry="3"/>
<path fill="#d9737b" d="M22 27h4l-2 2.5z"/><g fill="none" stroke="#5c3a1a" stroke-linecap="round"><path d="M24 29.5v1.5m0 0q-2 2.5-4 1m4-1q2 2.5 4 1" stroke-width=".8"/><path d="M16 29L6 27m10 4L6 32m26-3l10-2M32 31l10 1" stroke-width=".5"/>
<path d="M20 14l1 4m3-4v4m4-4l-1 4" stroke-width="1.2"/></g></svg>`;

async function drawSample() {
  const image = await loadImage(`data:image/svg+xml,${encodeURIComponent(SAMPLE)}`), canvas = element("canvas", { width: 480, height: 480 });
  canvas.getContext("2d").drawImage(image, 0, 0);
  run([await toFile(canvas, "sample.png")]);
}

const toFile = (canvas, name) => new Promise(resolve => canvas.toBlob(blob => resolve(new File([blob], name, { type: blob.type }))));

async function openCamera() {
  try {
    if (!navigator.mediaDevices) throw new Error("no secure context");
    live.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    field("video").srcObject = live.stream;
    field("camera-view").hidden = false;
    await field("video").play();
    field("shoot").focus();
  } catch (error) {
    fault(text("live_no_camera", { reason: error.message }));
  }
}

function closeCamera() {
  for (const track of live.stream?.getTracks() || []) track.stop();
  field("video").srcObject = live.stream = null;
  field("camera-view").hidden = true;
  field("camera").focus();
}

async function shoot() {
  const video = field("video"), canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  if (!canvas.width) return;
  canvas.getContext("2d").drawImage(video, 0, 0);
  run([await toFile(canvas, "camera.png")]);
}

// ------------------------------------------------------------------------------------------------ the page

function localize() {
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  for (const each of document.querySelectorAll("[data-text]")) each.textContent = text(each.dataset.text);
  for (const control of field("languages").children) control.setAttribute("aria-pressed", control.value === state.language);
  field("languages").setAttribute("aria-label", text("language"));
  if (live.note) note(...live.note);
  if (live.models.length) showModels();
  if (live.figures.length) showActivity();
  showVersus();
}

function listenLive() {
  for (const control of field("languages").children) control.onclick = () => { state.language = control.value; };
  field("languages").addEventListener("click", localize);
  for (const id of ["guess-mode", "reveal", "choices", "verdict", "images"]) {
    field(id).addEventListener("click", () => setTimeout(showVersus));  // after look.js
  }
  field("cam-layer").addEventListener("input", () => showVersusPictures());
  field("model-one").onchange = () => chooseModel().catch(error => fault(error.message));
  field("model-two").onchange = () => { if (look) compare(look); };
  field("files").onchange = event => { run(event.target.files); event.target.value = ""; };
  field("camera").onclick = openCamera;
  field("camera-stop").onclick = closeCamera;
  field("shoot").onclick = shoot;
  field("sample").onclick = drawSample;
  field("token-form").onsubmit = event => {
    event.preventDefault();
    live.token = field("token").value.trim();
    field("token").value = "";
    start();
  };
  const dragged = on => document.body.classList.toggle("dragging", on);
  addEventListener("dragover", event => { event.preventDefault(); dragged(true); });
  addEventListener("dragleave", event => { if (!event.relatedTarget) dragged(false); });
  addEventListener("drop", event => { event.preventDefault(); dragged(false); run(event.dataTransfer.files); });
  addEventListener("paste", event => { if (event.target.type !== "password") run(event.clipboardData.files); });
}

async function start() {
  clearTimeout(live.timer);
  let again = true;
  try {
    const models = await poll();
    field("token-form").hidden = true;
    field("live-grid").hidden = false;
    if (models === 0) note("live_loading_models");
    else if (live.note?.[0] === "live_loading_models") note();
    if (live.down) fault("");
    live.down = false;
  } catch (error) {
    again = !error.needsToken;
    live.down = error.lost || error.needsToken;
    fault(error.message);
  }
  if (again) live.timer = setTimeout(start, 1000 * SECONDS);
}

data = { texts: JSON.parse(field("texts").textContent), names: [], images: [] };
state.language = navigator.language.startsWith("zh") ? "zh" : "en";
waiting(true);
field("page").hidden = false;
listenLive();
localize();
start();
