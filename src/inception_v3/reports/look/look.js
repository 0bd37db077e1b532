"use strict";
// The page of `inception-v3 look`. show(data) draws everything; `data` is described in explain/look/page.py.

const field = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"]
  .map(hex => [0, 2, 4].map(start => parseInt(hex.slice(start, start + 2), 16)));
const PALETTE = Array.from({ length: 256 }, (_, level) => {
  const place = level / 255 * (VIRIDIS.length - 1), low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((value, channel) => value + (VIRIDIS[low + 1][channel] - value) * (place - low));
});

let data, parts, order, look;  // parts by name; the names in order; the shown image
const state = { language: "en", image: 0, part: "", channel: null, unit: null, overlay: "field", scale: "channel",
  camClass: 0, camLayer: 0, camShown: true, sort: "order", guessing: false, guess: null, side: false, wholeField: false, chosen: false };
const looks = [];

// ------------------------------------------------------------------------------------------------ texts and numbers

function text(key, values = {}) {
  const found = data.texts[key][state.language === "zh" ? 1 : 0];
  return found.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function percent(value) {
  if (!data.model.probabilities) return short(value);
  return value < 0.001 && value > 0 ? "<0.1 %" : value > 0.999 && value < 1 ? ">99.9 %" : `${(100 * value).toFixed(1)} %`;
}

const short = value => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
const count = value => value.toLocaleString("en");
const base = name => name.split("/").pop() || name;
const times = sizes => sizes.join("\u00d7");

// ------------------------------------------------------------------------------------------------ elements

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key.startsWith("data-") || key === "scope" || key === "colspan") made.setAttribute(key, value);
    else if (key.startsWith("--")) made.style.setProperty(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const button = (label, onclick, properties = {}) => element("button", { type: "button", onclick, ...properties }, label);

const loaded = new Map();
function loadImage(address) {  // decoded once
  if (!loaded.has(address)) {
    if (loaded.size > 400) loaded.clear();
    const image = new Image();
    image.src = address;
    loaded.set(address, image.decode().then(() => image));
  }
  return loaded.get(address);
}

function levels(image, top = 0, height = image.naturalHeight) {  // the gray levels 0 to 255 of a part of an image
  const canvas = element("canvas", { width: image.naturalWidth, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, -top);
  return context.getImageData(0, 0, canvas.width, height);
}

function paint(canvas, pixels, scale, alpha = null) {  // gray levels to colours; scale: from a level to 0...1
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  for (let index = 0; index < pixels.data.length; index += 4) {
    const value = Math.min(Math.max(scale(pixels.data[index]), 0), 1), colour = PALETTE[Math.round(255 * value)];
    pixels.data[index] = colour[0];
    pixels.data[index + 1] = colour[1];
    pixels.data[index + 2] = colour[2];
    pixels.data[index + 3] = alpha ? 255 * alpha(value) : 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

const translucent = value => 0.1 + 0.65 * value;
async function heatMap(address, alpha = translucent, root = 1) {  // as the address of a coloured picture
  const image = await loadImage(address);
  return paint(element("canvas"), levels(image), level => (level / 255) ** root, alpha).toDataURL();
}

// ------------------------------------------------------------------------------------------------ the image

const inputSize = () => data.model.image_size;

function toImage([x, y]) {  // from pixels of the network's input to pixels of the image
  const [left, top, right, bottom] = look.box, [height, width] = inputSize();
  return [left + x * (right - left) / width, top + y * (bottom - top) / height];
}

function fromImage([x, y]) {
  const [left, top, right, bottom] = look.box, [height, width] = inputSize();
  return [(x - left) * width / (right - left), (y - top) * height / (bottom - top)];
}

function drawStage(place, shown, label, overlay, smooth, marks = [], around = shown.box) {
  const [height, width] = shown.size, [left, top, right, bottom] = shown.box;
  const x = Math.min(0, left, around[0]), y = Math.min(0, top, around[1]);
  const far = [Math.max(width, right, around[2]), Math.max(height, bottom, around[3])];
  const crop = { x: left, y: top, width: right - left, height: bottom - top };
  const picture = shape("image", { x: 0, y: 0, width, height, preserveAspectRatio: "none", href: shown.picture });
  const outer = `M${x} ${y}H${far[0]}V${far[1]}H${x}Z`, inner = `M${left} ${top}H${right}V${bottom}H${left}Z`;
  const stage = shape("svg", { viewBox: `${x} ${y} ${far[0] - x} ${far[1] - y}`, role: "img", "aria-label": label }, picture,
    shape("path", { class: "outside", d: outer + inner, "fill-rule": "evenodd" }));
  if (overlay) {
    stage.append(shape("image", { ...crop, href: overlay, preserveAspectRatio: "none", style: smooth ? "" : "image-rendering:pixelated" }));
  }
  stage.append(shape("rect", { ...crop, class: "crop under" }), shape("rect", { ...crop, class: "crop" }), ...marks);
  place.replaceChildren(stage);
  return stage;
}

function rectangle(name, left, top, width, height) {  // of pixels of the input
  const start = toImage([left, top]), end = toImage([left + width, top + height]);
  return shape("rect", { class: name, x: start[0], y: start[1], width: end[0] - start[0], height: end[1] - start[1] });
}

// ------------------------------------------------------------------------------------------------ answers

const hidden = () => state.guessing && !state.guess;

function showAnswer() {
  const [height, width] = look.size, [inputHeight, inputWidth] = inputSize();
  field("picture-note").textContent = text("picture", { width, height, input_width: inputWidth, input_height: inputHeight });
  const heads = look.heads, main = heads.Logits || [];
  field("guess-mode").hidden = !main.length;
  field("guess-mode").setAttribute("aria-pressed", state.guessing);
  field("guess").hidden = !hidden();
  field("heads").hidden = hidden();
  field("heads-note").hidden = hidden();
  if (hidden()) {
    const names = data.model.classes.length <= 24 ? data.model.classes : main.map(each => each.name).sort();
    field("choices").replaceChildren(...names.map(name => button(name, () => guess(name))));
  }
  const verdict = state.guessing && state.guess && main.length ? main[0] : null;
  field("verdict").hidden = !verdict;
  if (verdict) {
    const values = { class: verdict.name, value: percent(verdict.value), guess: state.guess };
    const key = state.guess === true ? "revealed" : state.guess === verdict.name ? "guessed_right" : "guessed_wrong";
    field("verdict").replaceChildren(text(key, values), " ", button(text("guess_again"), () => guess(null)));
  }
  field("heads").replaceChildren(...["Logits", "AuxLogits"].filter(name => heads[name]).map(name =>
    headBars(name === "Logits" ? "main" : "aux", heads[name])));
  const notes = [["sigmoid", "probabilities_each"], ["none", "not_probabilities"]].filter(([kind]) => kind === data.model.activation && data.model.classes.length > 2);
  if (!data.model.named && main.length) notes.push(["", "no_names"]);
  field("heads-note").textContent = [...notes.map(([, key]) => text(key)), ...(main.length ? [] : [missingText("heads")])].join(" ");
  showCam();
}

function headBars(head, predictions) {
  const largest = Math.max(...predictions.map(each => Math.abs(each.value)), 1e-9);
  const bars = predictions.map(each => element("li", {}, element("span", { className: "name" }, each.name), element("span", {}, percent(each.value)),
    element("span", { className: "track" }, element("i", { "--fraction": data.model.probabilities ? each.value : Math.max(each.value, 0) / largest }))));
  return element("div", {}, element("h3", {}, text(`${head}_head`)), element("span", { className: "soft" }, text(`${head}_note`)),
    element("ol", { className: "bars" }, ...bars));
}

function guess(name) {
  state.guess = name;
  showAll();
  if (name) field("verdict").querySelector("button").focus();
}

async function showCam() {
  const cam = look.cams[state.camClass] || look.cams[0], names = cam ? data.model.base.filter(name => cam.maps[name]) : [];
  field("cam-controls").hidden = !cam || hidden();
  if (!names.length || hidden()) {
    if (cam && !hidden()) data.loadCam(cam);
    drawStage(field("picture"), look, text("picture_plain", { image: look.name }));
    return;
  }
  state.camLayer = Math.min(state.camLayer, names.length - 1);
  const layer = names[state.camLayer], slider = field("cam-layer");
  field("cam-class").replaceChildren(...look.cams.map((each, index) => element("option", { value: index, selected: each === cam }, each.name)));
  slider.max = names.length - 1;
  slider.value = state.camLayer;
  slider.disabled = names.length < 2;
  slider.setAttribute("aria-valuetext", layer);
  field("cam-name").textContent = layer;
  field("cam-show").setAttribute("aria-pressed", state.camShown);
  field("cam-high").textContent = short(cam.high[layer]);
  const [height, width] = parts.get(layer).shape;
  const remark = height * width === 1 ? text("cam_one", { layer }) : cam.high[layer] === 0 ? text("cam_zero", { layer, class: cam.name }) : "";
  field("cam-remark").hidden = !remark;
  field("cam-remark").textContent = remark;
  const shown = look, overlay = state.camShown ? await heatMap(cam.maps[layer]) : null;
  if (shown !== look || hidden()) return;
  drawStage(field("picture"), look, text(overlay ? "picture_cam" : "picture_plain", { image: look.name, class: cam.name, layer }), overlay, true);
}

// ------------------------------------------------------------------------------------------------ the drawing

function showDrawing() {
  const pane = field("drawing"), parsed = new DOMParser().parseFromString(data.drawing[state.language], "image/svg+xml");
  const drawing = document.importNode(parsed.documentElement, true);
  drawing.setAttribute("role", "group");
  drawing.setAttribute("aria-label", text("drawing", { count: count(data.model.outline.length) }));
  drawing.querySelector("title")?.remove();
  drawing.removeAttribute("width");
  drawing.removeAttribute("height");
  for (const group of drawing.querySelectorAll("[data-end-point]")) {
    const name = group.dataset.endPoint;
    if (!parts.has(name)) continue;
    group.setAttribute("role", "link");
    group.setAttribute("tabindex", "-1");
    group.setAttribute("aria-label", describe(name));
  }
  pane.replaceChildren(drawing);
  for (const group of drawing.querySelectorAll("[role=link]")) {  // so that the space between its layers is a part of a branch
    const box = group.getBBox();
    group.prepend(shape("rect", { class: "hit", x: box.x, y: box.y, width: box.width, height: box.height }));
  }
  markDrawing();
}

const drawn = name => field("drawing").querySelector(`[data-end-point="${CSS.escape(name)}"]`);
const describe = name => `${name}: ${text(parts.get(name).kind)}, ${times(parts.get(name).shape)}`;

function markDrawing() {
  for (const group of field("drawing").querySelectorAll("[aria-current]")) {
    group.removeAttribute("aria-current");
    group.setAttribute("tabindex", "-1");
  }
  field("drawing").querySelector(".halo-box")?.remove();
  const group = drawn(state.part);
  if (!group) return;
  group.setAttribute("aria-current", "true");
  group.setAttribute("tabindex", "0");
  const box = group.getBBox(), pad = 3;
  field("drawing").querySelector("svg").append(shape("rect", { class: "halo-box", rx: 8, x: box.x - pad, y: box.y - pad, width: box.width + 2 * pad, height: box.height + 2 * pad }));
}

function revealInPane() {  // scrolls only the pane, not the page
  const group = drawn(state.part), pane = field("drawing");
  if (!group) return;
  const box = group.getBoundingClientRect(), around = pane.getBoundingClientRect();
  if (box.top < around.top || box.bottom > around.bottom) pane.scrollTop += (box.top + box.bottom) / 2 - (around.top + around.bottom) / 2;
  if (box.left < around.left || box.right > around.right) pane.scrollLeft += (box.left + box.right) / 2 - (around.left + around.right) / 2;
}

const siblings = name => order.filter(each => parts.get(each).parent === parts.get(name).parent);
const children = name => order.filter(each => parts.get(each).parent === name);

function neighbour(name, key) {
  const beside = siblings(name), index = beside.indexOf(name);
  if (key === "ArrowRight") return beside[index + 1];
  if (key === "ArrowLeft") return beside[index - 1];
  if (key === "ArrowDown") return children(name)[0];
  if (key === "ArrowUp") return parts.get(name).parent;
  if (key === "Home") return beside[0];
  return key === "End" ? beside[beside.length - 1] : undefined;
}

// ------------------------------------------------------------------------------------------------ the selected part

function select(name, { focus = false, scroll = true } = {}) {
  if (name !== state.part) Object.assign(state, { part: name, channel: null, unit: null, overlay: "field" });
  const hash = `#${name}${state.image ? `@${state.image + 1}` : ""}`;
  if (decodeURIComponent(location.hash) !== hash) history.replaceState(null, "", hash);
  markDrawing();
  if (scroll) revealInPane();
  if (focus) drawn(name)?.focus({ preventScroll: true });
  showPart();
  markRows();
  field("status").textContent = describe(name);
}

function toPart() {
  field("part-title").scrollIntoView({ block: "center" });
  field("part-title").focus({ preventScroll: true });
}

function toDrawing() {
  field("network").scrollIntoView();
  revealInPane();
  drawn(state.part)?.focus({ preventScroll: true });
}

function watchPart() {  // while the details of the chosen part are out of sight, a bar at the bottom of the window describes it
  const seen = { drawing: false, part: true }, watch = (id, name, options) =>
    new IntersectionObserver(entries => {
      seen[name] = entries[entries.length - 1].isIntersecting;
      field("peek").hidden = !state.chosen || !seen.drawing || seen.part;
    }, options).observe(field(id));
  watch("drawing", "drawing", {});
  watch("part", "part", { rootMargin: "0px 0px -45% 0px" });
  return () => { field("peek").hidden = !seen.drawing || seen.part; };
}

function showPeek(part, maps) {
  field("peek-title").textContent = part.name;
  const figures = [["parameters", part.parameters], ["macs", part.macs]].filter(each => each[1]);
  field("peek-figures").textContent = [times(part.shape), ...figures.map(([key, value]) => `${count(value)} ${text(key)}`)].join(" \u00b7 ");
  field("peek-maps").replaceChildren(...maps.slice(0, 6).map(map => {
    const copy = element("canvas", { width: map.width, height: map.height });
    copy.getContext("2d").drawImage(map, 0, 0);
    return copy;
  }));
}

function showCloser() {  // the module of the selected part, larger than in the drawing
  const place = field("closer"), group = drawn(state.part.split("/")[0]);
  place.hidden = !group?.querySelector("[data-end-point]");
  if (place.hidden) return;
  const box = group.getBBox(), copy = group.cloneNode(true);
  for (const each of [copy, ...copy.querySelectorAll("[data-end-point]")]) {
    for (const name of ["role", "tabindex", "aria-label"]) each.removeAttribute(name);
  }
  place.replaceChildren(shape("svg", { class: "inception-drawing", viewBox: `${box.x - 3} ${box.y - 3} ${box.width + 6} ${box.height + 6}` }, copy));
}

function showPart() {
  const name = state.part, part = parts.get(name), pieces = name.split("/");
  const index = order.indexOf(name), step = (control, other) => {
    control.textContent = control === field("previous") ? `\u2190 ${text("previous")}` : `${text("next")} \u2192`;
    control.disabled = !other;
    control.onclick = () => select(other);
  };
  step(field("previous"), order[index - 1]);
  step(field("next"), order[index + 1]);
  field("crumbs").replaceChildren(...pieces.slice(0, -1).flatMap((piece, level) => {
    const outer = pieces.slice(0, level + 1).join("/");
    return parts.has(outer) ? [button(piece, () => select(outer)), element("span", { "aria-hidden": "true" }, "\u203a")] : [];
  }));
  field("crumbs").setAttribute("aria-label", text("part"));
  field("part-title").textContent = name;
  const inner = children(name), branches = inner.filter(each => parts.get(each).kind === "branch").length;
  const about = part.operation ? operation(part) : branches ? text("op_module", { count: branches }) : part.built_as.join(", ");
  field("part-kind").textContent = [text(part.kind), about].filter(Boolean).join(" \u00b7 ");
  field("figures").replaceChildren(...[[times(part.shape), "shape"], [count(part.parameters), "parameters"], [count(part.macs), "macs"]]
    .map(([value, key]) => element("div", { "data-figure": key }, element("b", {}, value), element("span", {}, text(key)))));
  field("inside").hidden = !inner.length;
  field("inside").replaceChildren(...inner.map(each =>
    element("li", {}, element("button", { type: "button", onclick: () => select(each) }, ...insideLines(name, each)))));
  showSilencedPart(name);
  showCloser();
  showField();
  showChannels();
  if (data.load) data.load(name);
}

function insideLines(outer, name) {
  const part = parts.get(name), how = part.operation ? operation(part) : part.built_as.join();
  return [element("b", {}, name.slice(outer.length + 1)), element("span", {}, how), element("span", {}, times(part.shape))];
}

function operation(part) {
  const values = { kernel: part.kernel && times(part.kernel), stride: part.stride, padding: part.padding, in: count(part.in_channels), out: count(part.shape[2]) };
  return text(`op_${part.operation}`, values);
}

function showSilencedPart(name) {
  const row = hidden() ? null : look.silenced.find(each => each.name === name), [top] = look.heads.Logits || [];
  field("part-silenced").hidden = !row;
  if (!row) return;
  const values = { class: top.name, before: percent(top.value), after: percent(row.values[0]), top: row.top.name, value: percent(row.top.value) };
  field("part-silenced").textContent = text(row.top.index === top.index ? "without_this" : "without_this_new", values);
}

function currentUnit(part) {
  const [height, width] = part.shape;
  return state.unit || [Math.floor(height / 2), Math.floor(width / 2)];
}

async function showField() {
  const name = state.part, part = parts.get(name), shown = look, [height, width] = part.shape, unit = currentUnit(part);
  const effective = look.fields[name], isCentre = effective && effective.unit[0] === unit[0] && effective.unit[1] === unit[1];
  const options = [["none", true], ["field", effective && effective.size > 0], ["channel", state.channel !== null]].filter(each => each[1]).map(each => each[0]);
  const overlayKind = options.includes(state.overlay) ? state.overlay : "none";
  field("overlay").replaceChildren(...options.map(each => element("option", { value: each, selected: each === overlayKind }, text(`overlay_${each}`))));
  field("overlay").hidden = field("overlay").labels[0].hidden = options.length < 2;
  let overlay = null;
  if (overlayKind === "field") overlay = await heatMap(effective.map, value => 0.85 * Math.min(1, 2 * value), 0.5);
  if (overlayKind === "channel") overlay = paint(element("canvas"), await channelLevels(look.parts[name], state.channel), level => level / 255, translucent).toDataURL();
  if (name !== state.part || shown !== look) return;
  const top = unit[0] * part.jump[0] - part.offset[0], left = unit[1] * part.jump[1] - part.offset[1];
  const marks = [rectangle("halo", left, top, part.field[1], part.field[0]), rectangle("theory", left, top, part.field[1], part.field[0])];
  const reach = [...toImage([left, top]), ...toImage([left + part.field[1], top + part.field[0]])];
  const exceeds = reach[0] < Math.min(0, look.box[0]) || reach[1] < Math.min(0, look.box[1]) || reach[2] > Math.max(look.size[1], look.box[2]) || reach[3] > Math.max(look.size[0], look.box[3]);
  field("whole-field").hidden = !exceeds;
  field("whole-field").setAttribute("aria-pressed", state.wholeField);
  const middle = toImage([left + part.field[1] / 2, top + part.field[0] / 2]);
  if (isCentre && effective.size) {
    const start = [left + (part.field[1] - effective.size) / 2, top + (part.field[0] - effective.size) / 2];
    marks.push(rectangle("halo", ...start, effective.size, effective.size), rectangle("effective", ...start, effective.size, effective.size));
  }
  const radius = Math.max(...look.size) / 110;
  marks.push(shape("circle", { class: "dot", cx: middle[0], cy: middle[1], r: radius }));
  const stage = drawStage(field("field"), look, text("field_alt", { row: unit[0], column: unit[1], layer: name }), overlay, overlayKind !== "channel", marks, state.wholeField && exceeds ? reach : look.box);
  stage.classList.add("unit");
  stage.addEventListener("click", event => moveUnit(stage, event));
  for (const [id, value, length] of [["unit-row", unit[0], height], ["unit-column", unit[1], width]]) {
    field(id).max = length - 1;
    field(id).value = value;
    field(id).disabled = length === 1;
  }
  showKey(part, unit, effective, isCentre);
}

function showKey(part, unit, effective, isCentre) {
  const line = name => shape("svg", { viewBox: "0 0 28 16", "aria-hidden": "true" }, shape("path", { class: name, d: "M1 8H27" }));
  const rows = [[line("theory"), `${text("field_theory", { width: part.field[1], height: part.field[0] })} ${fieldPadding(part, unit)}`]];
  if (effective && effective.size === 0) rows.push(["", text("field_zero")]);
  else if (isCentre) rows.push([line("effective"), text("field_effective", { size: effective.size })]);
  else if (!effective && !look.missing.fields) {
    const module = state.part.split("/")[0];
    rows.push(["", look.fields[module] && module !== state.part ? text("field_of_module", { module }) : data.model.base.includes(module) ? "" : text("field_heads")]);
  }
  field("field-key").replaceChildren(...rows.filter(row => row[1]).flatMap(([sign, words]) => [element("span", {}, sign), element("span", {}, words)]));
}

function fieldPadding(part, unit) {
  const inside = [0, 1].map(axis => {
    const start = unit[axis] * part.jump[axis] - part.offset[axis];
    return Math.max(0, Math.min(start + part.field[axis], inputSize()[axis]) - Math.max(start, 0));
  });
  const share = 1 - inside[0] * inside[1] / (part.field[0] * part.field[1]);
  return share ? text("field_padding", { share: `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %` }) : text("field_inside");
}

function moveUnit(stage, event) {
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
  const part = parts.get(state.part), [x, y] = fromImage([place.x, place.y]);
  const nearest = [y, x].map((value, axis) => {
    const unit = Math.round((value + part.offset[axis] - part.field[axis] / 2) / part.jump[axis]);
    return Math.min(Math.max(unit, 0), part.shape[axis] - 1);
  });
  setUnit(nearest);
}

function setUnit(unit) {
  state.unit = unit;
  showField();
}

// ------------------------------------------------------------------------------------------------ channels

async function channelLevels(channels, index) {
  const image = await loadImage(channels.sprite), [height] = channels.map_size;
  return levels(image, index * height, height);
}

async function showChannels() {
  const name = state.part, part = parts.get(name), channels = look.parts[name], shown = look;
  const withheld = hidden() && (/^(Logits|Predictions|AuxLogits)/.test(name));
  const available = channels && !withheld;
  field("scale").hidden = !available || !channels.sprite;
  for (const control of field("scale").querySelectorAll("button")) control.setAttribute("aria-pressed", control.value === state.scale);
  field("channels-silent").textContent = available ? summary(channels) : "";
  if (!available) {
    field("channels-note").textContent = text(withheld ? "hidden_by_guess" : look.loading === name ? "loading" : "no_values");
    field("maps").replaceChildren();
    showPeek(part, []);
    return;
  }
  const all = count(channels.shape[2]);
  field("channels-note").textContent = channels.sprite ? text("channels_hint", { count: channels.numbers.length, all }) : text("channels_one");
  const sprite = channels.sprite ? await loadImage(channels.sprite) : null, input = sprite ? await loadImage(look.input) : null;
  if (name !== state.part || shown !== look) return;
  field("maps").replaceChildren(...channels.numbers.map((number, index) => tile(part, channels, number, index, sprite, input)));
  showPeek(part, [...field("maps").querySelectorAll("canvas.map")]);
}

function summary(channels) {
  const all = channels.shape[0] * channels.shape[1] * channels.shape[2], lines = [text("values_range", { low: short(channels.low_of_all), high: short(channels.high_of_all) })];
  if (channels.silent) lines.push(text("silent", { count: count(channels.silent), all: count(channels.shape[2]) }));
  if (channels.not_finite) lines.unshift(text("part_not_finite", { count: count(channels.not_finite), all: count(all) }));
  return lines.join(" ");
}

function tile(part, channels, number, index, sprite, input) {
  const classed = /^(Logits|Predictions|AuxLogits)(\/Conv2d_(1c|2b)_1x1)?$/.test(part.name) && data.model.classes.length === channels.shape[2];
  const label = classed ? data.model.classes[number] : text("channel", { number });
  const low = channels.low[index], high = channels.high[index], [row, column] = channels.peaks[index];
  const caption = element("small", {}, element("b", {}, label), element("span", {}, short(high)));
  if (!sprite) return element("li", { "data-channel": number, className: "plain" }, caption);
  const [height] = channels.map_size, span = channels.high_of_all - Math.min(channels.low_of_all, 0);
  const scale = state.scale === "channel" ? level => level / 255
    : level => (low + level / 255 * (high - low) - Math.min(channels.low_of_all, 0)) / (span || 1);
  const map = paint(element("canvas", { className: "map" }), levels(sprite, index * height, height), scale);
  const pair = element("span", { className: "pair" }, map, cutOut(part, channels.peaks[index], input), caption);
  const known = data.patches[`${part.name}:${number}`];
  if (known) pair.append(element("img", { className: "patches", src: known, alt: text("patches_alt", { number }) }));
  const chosen = state.channel === index;
  const alternative = text("channel_alt", { number, low: short(low), high: short(high), row, column });
  return element("li", { "data-channel": number }, button(pair, () => chooseChannel(index), { "aria-pressed": chosen, "aria-label": alternative }));
}

function cutOut(part, [row, column], input) {  // the part of the network's input around a unit
  const module = part.name.split("/")[0], effective = look.fields[part.name] || look.fields[module];
  const [height, width] = inputSize(), longest = Math.max(height, width);
  const side = Math.min(Math.max(...part.field), effective?.size || longest, longest);
  const shown = Math.max(side, 9), middle = [row * part.jump[0] - part.offset[0] + part.field[0] / 2, column * part.jump[1] - part.offset[1] + part.field[1] / 2];
  const canvas = element("canvas", { width: 96, height: 96 }), context = canvas.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, 96, 96);
  context.imageSmoothingEnabled = shown > 40;
  const scale = 96 / shown, left = middle[1] - shown / 2, top = middle[0] - shown / 2;
  context.drawImage(input, -left * scale, -top * scale, width * scale, height * scale);
  return canvas;
}

function chooseChannel(index) {
  const again = state.channel === index;
  Object.assign(state, again ? { channel: null, overlay: "field", unit: null }
    : { channel: index, overlay: "channel", unit: look.parts[state.part].peaks[index] });
  [...field("maps").querySelectorAll("button")].forEach((each, number) => each.setAttribute("aria-pressed", number === state.channel));
  showField();
}

// ------------------------------------------------------------------------------------------------ branches

function showBranches() {
  const [top] = look.heads.Logits || [], rows = [...look.silenced];
  field("branches").hidden = !rows.length || hidden();
  if (!rows.length || hidden()) return;
  for (const control of field("sort").querySelectorAll("button")) control.setAttribute("aria-pressed", control.value === state.sort);
  if (state.sort === "effect") rows.sort((one, other) => Math.abs(other.values[0] - top.value) - Math.abs(one.values[0] - top.value));
  field("branches-class").textContent = text(data.model.probabilities ? "probability" : "output", { class: top.name });
  const largest = data.model.probabilities ? 1 : Math.max(...rows.map(row => row.values[0]), top.value, 1e-9);
  const line = (name, values, then, current) => element("tr", { "data-branch": name }, ...[
    element("th", { scope: "row" }, current ? name : button(name, () => { select(name); toPart(); })),
    element("td", { className: "change" }, element("span", { className: "track" }, element("i", { "--fraction": Math.max(values[0], 0) / largest }), element("u", { "--whole": top.value / largest })),
      element("span", { className: "number" }, percent(values[0]))),
    element("td", { className: `name${then ? " differs" : ""}` }, then || (current ? top.name : text("unchanged")))]);
  field("branch-rows").replaceChildren(line(text("whole"), [top.value], "", true),
    ...rows.map(row => line(row.name, row.values, row.top.index === top.index ? "" : `${row.top.name} ${percent(row.top.value)}`)));
  markRows();
}

function markRows() {
  for (const row of field("branch-rows").children) {
    if (row.dataset.branch === state.part) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

// ------------------------------------------------------------------------------------------------ several images

function openImage(index) {
  if (!looks[index]) looks[index] = typeof data.images[index] === "function" ? data.images[index]() : data.images[index];
  return looks[index];
}

function showImages() {
  field("images").hidden = data.names.length < 2;
  field("images").setAttribute("aria-label", text("images"));
  field("images").replaceChildren(...data.names.map((name, index) =>
    button(base(name), () => chooseImage(index), { "aria-pressed": index === state.image, title: name })));
  field("side").hidden = data.names.length < 2 || hidden();
  field("side-load").hidden = state.side;
  field("side-load").textContent = text("side_load", { count: data.names.length });
  if (state.side) showCards();
  else field("cards").replaceChildren();
}

async function showCards() {
  const cards = await Promise.all(data.names.map(async (name, index) => {
    const each = openImage(index), cam = each.cams[0], layer = cam && data.model.base.filter(part => cam.maps[part])[state.camLayer];
    const stage = element("div", { className: "stage" }), [top] = each.heads.Logits || [];
    drawStage(stage, each, text(cam ? "picture_cam" : "picture_plain", { image: each.name, class: cam && cam.name, layer }), cam && layer ? await heatMap(cam.maps[layer]) : null, true);
    return element("li", {}, button(base(each.name), () => chooseImage(index), { className: "name", "aria-pressed": index === state.image }), stage,
      ...(each.heads.Logits ? [headBars("main", each.heads.Logits)] : []));
  }));
  field("cards").replaceChildren(...cards);
}

function chooseImage(index) {
  Object.assign(state, { image: index, guess: null, unit: null, channel: null, overlay: "field" });
  look = openImage(index);
  showAll();
  select(state.part);
}

// ------------------------------------------------------------------------------------------------ what is missing

function showMissing() {
  const start = look.not_finite_from, problem = field("problem");
  problem.hidden = !start;
  if (start === "image") problem.replaceChildren(text("not_finite_image"));
  else if (start) problem.replaceChildren(text("not_finite", { layer: start }), " ", button(text("show_layer", { layer: start }), () => select(start)));
  const lines = Object.keys(look.missing).map(missingText);
  if (data.model.exported) lines.push(text("missing_remedy"));
  field("missing").hidden = !lines.length;
  field("missing-list").replaceChildren(...lines.map(line => element("li", {}, line)));
}

function missingText(what) {
  const key = look.missing[what];
  if (key === "not_finite") return text("missing_not_finite", { what: text(`what_${what}`) });
  return key ? text(`missing_${key}`, { layer: data.model.base[data.model.base.length - 1], ...missingValues() }) : "";
}

function missingValues() {
  const lost = look.lost || order.filter(name => !look.parts[name]), reason = data.model.no_cam_reason;
  return { count: lost.length, example: lost[0], reason: reason ? text(`reason_${reason}`) : "" };
}

// ------------------------------------------------------------------------------------------------ everything

function showAll() {
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  for (const each of document.querySelectorAll("[data-text]")) each.textContent = text(each.dataset.text);
  for (const control of field("languages").children) control.setAttribute("aria-pressed", control.value === state.language);
  field("languages").setAttribute("aria-label", text("language"));
  field("title").textContent = document.title = text("title", { image: data.names.length > 1 ? text("image_count", { count: data.names.length }) : base(look.name), model: data.model.name });
  showImages();
  showMissing();
  showAnswer();
  showBranches();
  if (state.part) showPart();
}

function fromHash() {
  const [name, number] = decodeURIComponent(location.hash.slice(1)).split("@"), index = Number(number || 1) - 1;
  if (data.names[index] !== undefined && index !== state.image) {
    state.image = index;
    look = openImage(index);
    showAll();
  }
  return parts.has(name) ? name : null;
}

function setLanguage(language) {
  state.language = language;
  showDrawing();
  showAll();
  revealInPane();
}

function zoom(factor) {
  field("drawing").style.setProperty("--zoom", factor);
  for (const control of field("zoom").querySelectorAll("button")) control.setAttribute("aria-pressed", control.value === factor);
  revealInPane();
}

function listen() {
  const answer = watchPart(), choose = (...given) => {
    state.chosen = true;
    select(...given);
    answer();
  };
  for (const control of field("languages").children) control.onclick = () => setLanguage(control.value);
  field("guess-mode").onclick = () => {
    Object.assign(state, { guessing: !state.guessing, guess: null });
    showAll();
  };
  field("reveal").onclick = () => guess(true);
  field("cam-class").onchange = event => { state.camClass = Number(event.target.value); showCam(); };
  field("cam-layer").oninput = event => { state.camLayer = Number(event.target.value); showCam(); if (state.side) showCards(); };
  field("cam-show").onclick = () => { state.camShown = !state.camShown; showCam(); };
  field("whole-field").onclick = () => { state.wholeField = !state.wholeField; showField(); };
  field("overlay").onchange = event => { state.overlay = event.target.value; showField(); };
  for (const id of ["unit-row", "unit-column"]) {
    field(id).onchange = () => setUnit(["unit-row", "unit-column"].map((each, axis) =>
      Math.min(Math.max(Math.round(Number(field(each).value)) || 0, 0), parts.get(state.part).shape[axis] - 1)));
  }
  for (const control of field("scale").querySelectorAll("button")) control.onclick = () => { state.scale = control.value; showChannels(); };
  for (const control of field("sort").querySelectorAll("button")) control.onclick = () => { state.sort = control.value; showBranches(); };
  field("side-load").onclick = () => { state.side = true; showImages(); };
  field("drawing").addEventListener("click", event => {
    const group = event.target.closest("[role=link]");
    if (group) choose(group.dataset.endPoint, { focus: true, scroll: false });
  });
  field("closer").addEventListener("click", event => {
    const group = event.target.closest("[data-end-point]");
    if (group && parts.has(group.dataset.endPoint)) select(group.dataset.endPoint);
  });
  field("to-part").onclick = toPart;
  field("to-drawing").onclick = toDrawing;
  for (const control of field("zoom").querySelectorAll("button")) control.onclick = () => zoom(control.value);
  field("drawing").addEventListener("keydown", event => {
    const group = event.target.closest("[role=link]");
    if (!group || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      toPart();
      return;
    }
    const next = neighbour(group.dataset.endPoint, event.key);
    if (/^(Arrow|Home|End)/.test(event.key)) event.preventDefault();
    if (next && parts.has(next)) choose(next, { focus: true });
  });
  addEventListener("hashchange", () => {
    const name = fromHash();
    if (name) select(name);
  });
}

function show(given) {
  data = given;
  parts = new Map(data.model.outline.map(part => [part.name, part]));
  order = [...parts.keys()];
  state.language = data.language;
  state.guessing = data.guess;
  const sizes = data.model.base.map(name => parts.get(name).shape[0] * parts.get(name).shape[1]);
  state.camLayer = sizes.findLastIndex(size => size > 1);  // a map of one position would say nothing about places
  const again = looks.length;  // the live page shows another model
  looks.length = state.image = 0;
  look = openImage(0);
  field("page").hidden = false;
  showAll();
  showDrawing();
  zoom("1");
  if (!again) listen();
  select(fromHash() || data.open);
}

{
  const content = field("data");
  if (content) {
    const images = [...document.querySelectorAll("script.image")].map(each => () => JSON.parse(each.textContent));
    show({ ...JSON.parse(content.textContent), images });
  }
}
