"use strict";
// The preprocessing of images/preprocessing.py, with the same values: Preprocessing.array, Pillow's resize
// (src/libImaging/Resample.c) and images/tensorflow_resize.py. Nothing here needs a page, so a test can call it.

const MAX_ASPECT = 20; // of images/preprocessing.py
const BITS = 22; // Pillow's weights are integers with this many binary places
const float32 = Math.fround;

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const FILTERS = { // the support and the kernel, as in Pillow
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI)))],
  bicubic: [2, (x) => {
    x = Math.abs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** Resize and crop an image {width, height, data: RGBA} to RGB values, (H, W, 3), of the size of `preprocessing`.
 *
 * `preprocessing` has the fields of Preprocessing. Alpha is ignored.
 */
function prepare(image, preprocessing) {
  const [height, width] = preprocessing.image_size;
  const plan = resizePlan(image.width, image.height, preprocessing);
  const { interpolation, squash, resize, fit } = preprocessing;
  let result;
  if (interpolation === "tensorflow") {
    result = crop(tensorflowResize(crop(image, plan.region), plan.size), plan.crop);
  } else if (squash || resize !== null || !["bilinear", "bicubic"].includes(interpolation)) {
    let net = crop(image, plan.region);
    if (net.height > net.width * MAX_ASPECT) net = pillowResize(net, [plan.size[0], net.width], interpolation);
    net = pillowResize(net, plan.size, interpolation);
    const border = resize !== null && fit === "contain" ? preprocessing.mean.map((value) => clip(roundEven(255 * value))) : [0, 0, 0];
    result = crop(net, plan.crop, border);
  } else { // compute only the pixels that the crop keeps
    const [left, top, right, bottom] = plan.region;
    const [yScale, xScale] = [(bottom - top) / plan.size[0], (right - left) / plan.size[1]];
    const [x0, y0, x1, y1] = plan.crop.map((edge, index) => edge * (index % 2 ? yScale : xScale));
    const kept = [left + x0, top + y0, Math.min(left + x1, right), Math.min(top + y1, bottom)];
    result = pillowResize(image, [height, width], interpolation, kept);
  }
  const rgb = new Uint8Array(height * width * 3);
  for (let pixel = 0; pixel < height * width; pixel++) {
    for (let channel = 0; channel < 3; channel++) rgb[pixel * 3 + channel] = roundEven(result.data[pixel * 4 + channel]);
  }
  return rgb;
}

/** The `region` (left, top, right, bottom) that is resized, the `size` (height, width), and the `crop` of the result. */
function resizePlan(width, height, { image_size: imageSize, crop_fraction: fraction, resize, squash, fit }) {
  if (squash) {
    const [left, top] = [width, height].map((length) => Math.trunc((length - length * fraction) / 2));
    return { region: [left, top, width - left, height - top], size: imageSize, crop: [0, 0, imageSize[1], imageSize[0]] };
  }
  const kept = [imageSize[1], imageSize[0]];
  if (resize !== null && fit !== "cover") {
    let size = Array.isArray(resize) ? resize : [resize, resize];
    if (fit === "contain") {
      const ratio = Math.max(height / size[0], width / size[1]);
      size = [Math.max(1, roundEven(height / ratio)), Math.max(1, roundEven(width / ratio))];
    }
    return { region: [0, 0, width, height], size, crop: centreBox([size[1], size[0]], kept) };
  }
  const longest = Math.min(width, height) * MAX_ASPECT;
  const region = centreBox([width, height], [Math.min(width, longest), Math.min(height, longest)]);
  [width, height] = [Math.min(width, longest), Math.min(height, longest)];
  let size;
  if (Array.isArray(resize)) {
    const ratio = Math.min(height / resize[0], width / resize[1]);
    size = [roundEven(height / ratio), roundEven(width / ratio)];
  } else if (resize === null) {
    const ratio = Math.max(imageSize[0] / height, imageSize[1] / width) / fraction;
    size = [Math.max(imageSize[0], roundEven(height * ratio)), Math.max(imageSize[1], roundEven(width * ratio))];
  } else {
    const shorter = Math.min(width, height);
    size = [Math.floor((height * resize) / shorter), Math.floor((width * resize) / shorter)];
  }
  return { region, size, crop: centreBox([size[1], size[0]], kept) };
}

/** The centre crop of (width, height) to `kept`, which may be larger. */
function centreBox(size, kept) {
  const [left, top] = size.map((whole, axis) =>
    kept[axis] <= whole ? roundEven((whole - kept[axis]) / 2) : -Math.floor((kept[axis] - whole) / 2));
  return [left, top, left + kept[0], top + kept[1]];
}

/** Round as Python does: halves to the even number. */
function roundEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

const clip = (value) => Math.min(Math.max(value, 0), 255);

/** The pixels in a box (left, top, right, bottom), with a `border` where it exceeds the image. */
function crop(image, [left, top, right, bottom], border = [0, 0, 0]) {
  const [width, height] = [right - left, bottom - top];
  if (left === 0 && top === 0 && width === image.width && height === image.height) return image;
  const data = new image.data.constructor(width * height * 4);
  if (border.some(Boolean)) {
    for (let index = 0; index < data.length; index++) data[index] = index % 4 < 3 ? border[index % 4] : 255;
  }
  const [from, to] = [Math.max(left, 0), Math.min(right, image.width)];
  for (let y = Math.max(top, 0); y < Math.min(bottom, image.height); y++) {
    const row = image.data.subarray((y * image.width + from) * 4, (y * image.width + to) * 4);
    data.set(row, ((y - top) * width + from - left) * 4);
  }
  return { width, height, data };
}

/** Pillow's Image.resize to `size`, (height, width), of the part of the image in `box`. */
function pillowResize(image, [height, width], interpolation, box = [0, 0, image.width, image.height]) {
  const [left, top, right, bottom] = box.map(float32); // Pillow stores the box in single precision
  const [across, down] = [float32(right - left), float32(bottom - top)];
  if (Number.isInteger(left) && Number.isInteger(top) && across === width && down === height) {
    return crop(image, [left, top, right, bottom]);
  }
  if (interpolation === "nearest") return nearest(image, [height, width], [left, top], [across / width, down / height]);
  const columns = taps(image.width, left, across, width, interpolation);
  const rows = taps(image.height, top, down, height, interpolation);
  const isWidthKept = width === image.width && left === 0 && right === width;
  const isHeightKept = height === image.height && top === 0 && bottom === height;
  // The first pass reads only what the second needs. Pillow 13 chooses the order by the pixels that are removed.
  const isDownFirst = height < image.height && image.height - height > 2 * (image.width - width);
  if (isWidthKept) return isHeightKept ? image : resample(image, rows, false);
  if (isHeightKept) return resample(image, columns, true);
  return isDownFirst
    ? resample(resample(image, rows, false, range(columns)), columns, true)
    : resample(resample(image, columns, true, range(rows)), rows, false);
}

/** The first input pixel that is read, and the one behind the last. */
const range = (all) => [all[0].start, all.at(-1).start + all.at(-1).weights.length];

/** For each of `count` output pixels: the first input pixel that it reads, and the weights as integers. */
function taps(length, start, part, count, interpolation) {
  const [support, kernel] = FILTERS[interpolation];
  const scale = part / count;
  const stretch = Math.max(scale, 1);
  const result = [];
  for (let index = 0; index < count; index++) {
    const centre = start + (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * stretch + 0.5));
    const last = Math.min(length, Math.trunc(centre + support * stretch + 0.5));
    const weights = Array.from({ length: last - first }, (_, x) => kernel((x + first - centre + 0.5) * (1 / stretch)));
    let total = 0;
    for (const weight of weights) total += weight;
    const integers = weights.map((weight) => {
      const share = (total === 0 ? weight : weight / total) * 2 ** BITS;
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    result.push({ start: first, weights: Int32Array.from(integers) });
  }
  return result;
}

/** Resize along one axis. Only the rows or columns of the other axis in `part` are computed; the others are zero. */
function resample(image, all, isAcross, part = [0, isAcross ? image.height : image.width]) {
  const [width, height] = isAcross ? [all.length, image.height] : [image.width, all.length];
  const data = new Uint8ClampedArray(width * height * 4); // it clips to 0 to 255
  const [before, after] = isAcross ? [4, image.width * 4] : [image.width * 4, 4]; // between the taps, and the others
  const [near, far] = isAcross ? [4, width * 4] : [width * 4, 4];
  for (let index = 0; index < all.length; index++) {
    const { start, weights } = all[index];
    for (let other = part[0]; other < part[1]; other++) {
      let [red, green, blue] = [2 ** (BITS - 1), 2 ** (BITS - 1), 2 ** (BITS - 1)];
      for (let tap = 0, from = start * before + other * after; tap < weights.length; tap++, from += before) {
        red += image.data[from] * weights[tap];
        green += image.data[from + 1] * weights[tap];
        blue += image.data[from + 2] * weights[tap];
      }
      const to = index * near + other * far;
      data[to] = red >> BITS;
      data[to + 1] = green >> BITS;
      data[to + 2] = blue >> BITS;
    }
  }
  return { width, height, data };
}

function nearest(image, [height, width], [left, top], [xScale, yScale]) {
  const positions = (start, scale, count) => {
    const result = [];
    for (let index = 0, position = start + scale * 0.5; index < count; index++, position += scale) result.push(Math.trunc(position));
    return result;
  };
  const [xs, ys] = [positions(left, xScale, width), positions(top, yScale, height)];
  const data = new Uint8ClampedArray(width * height * 4);
  ys.forEach((y, row) => xs.forEach((x, column) => {
    const from = (y * image.width + x) * 4;
    data.set(image.data.subarray(from, from + 4), (row * width + column) * 4);
  }));
  return { width, height, data };
}

/** TensorFlow 1's bilinear resize: no half-pixel centres, no antialiasing. Values are float32, not rounded. */
function tensorflowResize(image, [height, width]) {
  if (image.width === width && image.height === height) return image;
  const [xs, ys] = [neighbours(image.width, width), neighbours(image.height, height)];
  const between = (first, second, fraction) => float32(first + float32(float32(second - first) * fraction));
  const data = new Float32Array(width * height * 4);
  for (let y = 0; y < height; y++) {
    const [above, below] = [ys[y].before * image.width, ys[y].after * image.width];
    for (let x = 0; x < width; x++) {
      const { before, after, fraction } = xs[x];
      for (let channel = 0; channel < 3; channel++) {
        const value = (row, column) => image.data[(row + column) * 4 + channel];
        const upper = between(value(above, before), value(above, after), fraction);
        const lower = between(value(below, before), value(below, after), fraction);
        data[(y * width + x) * 4 + channel] = between(upper, lower, ys[y].fraction);
      }
    }
  }
  return { width, height, data };
}

function neighbours(old, count) {
  const scale = float32(float32(old) / float32(count));
  return Array.from({ length: count }, (_, index) => {
    const position = float32(float32(index) * scale);
    const before = Math.floor(position);
    return { before, after: Math.min(before + 1, old - 1), fraction: float32(position - before) };
  });
}
