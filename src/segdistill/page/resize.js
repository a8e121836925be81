// Pixels -> network input, and logits -> class indices, as segdistill computes both in PyTorch.

/**
 * Height and width whose longer one is `longSide`; Python's `round` takes halves to the even number.
 */
export function scaledSize(height, width, longSide) {
  const scale = longSide / Math.max(height, width);
  return [height, width].map((side) => {
    const scaled = side * scale;
    const below = Math.floor(scaled);
    const rounded = scaled - below === 0.5 ? below + (below % 2) : Math.round(scaled);
    return Math.max(1, rounded);
  });
}

/**
 * The filter of one axis: for each output pixel the first input pixel and the weights, in fixed point.
 *
 * The triangle is as wide as an output pixel, at least as an input pixel (Pillow's antialiased BILINEAR). The
 * precision is what torchvision takes: the largest weight fits into 15 bits.
 */
function makeFilter(input, output) {
  const scale = input / output;
  const support = Math.max(scale, 1);
  let largest = 0;
  const taps = Array.from({ length: output }, (_, x) => {
    const centre = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(input, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) => Math.max(0, 1 - Math.abs((k + first - centre + 0.5) / support)));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const normalised = weights.map((weight) => weight / sum);
    largest = Math.max(largest, ...normalised);
    return { first, weights: normalised };
  });
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < 2 ** 15) bits += 1;
  for (const tap of taps) tap.weights = Int32Array.from(tap.weights, (weight) => Math.floor(weight * 2 ** bits + 0.5));
  return { taps, bits };
}

/** The rounded, clamped sum of one output value. */
function finish(sum, bits) {
  const value = sum >> bits;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** RGB or RGBA rows -> RGB rows of `output` pixels. */
function resizeRows(pixels, channels, height, width, output) {
  const { taps, bits } = makeFilter(width, output);
  const resized = new Uint8Array(height * output * 3);
  const half = 1 << (bits - 1);
  for (let y = 0, to = 0; y < height; y += 1) {
    for (const { first, weights } of taps) {
      let [red, green, blue] = [half, half, half];
      for (let k = 0, from = (y * width + first) * channels; k < weights.length; k += 1, from += channels) {
        red += pixels[from] * weights[k];
        green += pixels[from + 1] * weights[k];
        blue += pixels[from + 2] * weights[k];
      }
      resized[to++] = finish(red, bits);
      resized[to++] = finish(green, bits);
      resized[to++] = finish(blue, bits);
    }
  }
  return resized;
}

/** RGB, height x width -> RGB, output x width. */
function resizeColumns(pixels, height, width, output) {
  const { taps, bits } = makeFilter(height, output);
  const stride = width * 3;
  const resized = new Uint8Array(output * stride);
  const sums = new Int32Array(stride);
  taps.forEach(({ first, weights }, y) => {
    sums.fill(1 << (bits - 1));
    weights.forEach((weight, k) => {
      const from = (first + k) * stride;
      for (let at = 0; at < stride; at += 1) sums[at] += pixels[from + at] * weight;
    });
    for (let at = 0; at < stride; at += 1) resized[y * stride + at] = finish(sums[at], bits);
  });
  return resized;
}

/** RGBA without its alpha. */
function dropAlpha(pixels) {
  const rgb = new Uint8Array((pixels.length / 4) * 3);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    rgb[to++] = pixels[from];
    rgb[to++] = pixels[from + 1];
    rgb[to++] = pixels[from + 2];
  }
  return rgb;
}

/**
 * Antialiased bilinear, to the bit what torchvision's `resize` gives of 8-bit images on x86.
 *
 * @param image ImageData: opaque RGBA
 * @returns Uint8Array, height x width x 3
 */
export function resizeImage({ data, height, width }, toHeight, toWidth) {
  const rows = width === toWidth ? dropAlpha(data) : resizeRows(data, 4, height, width, toWidth);
  return height === toHeight ? rows : resizeColumns(rows, height, toWidth, toHeight);
}

/** For each of `output` positions the input position before it, that after it, and the weight of the latter. */
function interpolate(input, output) {
  const [before, after, weight] = [new Int32Array(output), new Int32Array(output), new Float32Array(output)];
  for (let at = 0; at < output; at += 1) {
    const centre = Math.min(Math.max((at + 0.5) * (input / output) - 0.5, 0), input - 1);
    before[at] = Math.floor(centre);
    after[at] = Math.min(before[at] + 1, input - 1);
    weight[at] = centre - before[at];
  }
  return { before, after, weight };
}

/**
 * The largest class of each pixel after the logits are upsampled bilinearly (align_corners=False).
 *
 * The upsampled logits are never whole in memory: for 21 classes of a photograph they are a gigabyte.
 *
 * @param logits Float32Array, classes x rows x columns
 * @returns Uint8Array, height x width
 */
export function classMask(logits, [classes, rows, columns], height, width) {
  const [down, across] = [interpolate(rows, height), interpolate(columns, width)];
  const mask = new Uint8Array(height * width);
  const largest = new Float32Array(width);
  let [above, below, row] = [new Float32Array(classes * width), new Float32Array(classes * width), -1];
  for (let y = 0; y < height; y += 1) {
    if (down.before[y] !== row) {
      if (down.before[y] === row + 1 && row >= 0) [above, below] = [below, above];
      else widenRow(logits, [classes, rows, columns], down.before[y], across, above);
      row = down.before[y];
      widenRow(logits, [classes, rows, columns], down.after[y], across, below);
    }
    largest.fill(-Infinity);
    const indices = mask.subarray(y * width, (y + 1) * width);
    for (let k = 0; k < classes; k += 1) keepLarger(k, above, below, down.weight[y], largest, indices);
  }
  return mask;
}

/** One row of the logits, `classes` x the width that `across` interpolates to, into `wide`. */
function widenRow(logits, [classes, rows, columns], row, { before, after, weight }, wide) {
  const width = weight.length;
  for (let k = 0, to = 0; k < classes; k += 1) {
    const from = (k * rows + row) * columns;
    for (let x = 0; x < width; x += 1, to += 1) {
      const value = logits[from + before[x]];
      wide[to] = value + (logits[from + after[x]] - value) * weight[x];
    }
  }
}

/** Compare the logits of class k between two rows with the largest so far. */
function keepLarger(k, above, below, weight, largest, indices) {
  const width = indices.length;
  for (let x = 0, at = k * width; x < width; x += 1, at += 1) {
    const value = above[at] + (below[at] - above[at]) * weight;
    if (value > largest[x]) {
      largest[x] = value;
      indices[x] = k;
    }
  }
}
