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
  return Array.from({ length: output }, (_, at) => {
    const centre = Math.min(Math.max((at + 0.5) * (input / output) - 0.5, 0), input - 1);
    const before = Math.floor(centre);
    return [before, Math.min(before + 1, input - 1), centre - before];
  });
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
  const across = interpolate(columns, width);
  const widen = (row) => {
    const wide = new Float32Array(classes * width);
    for (let k = 0, to = 0; k < classes; k += 1) {
      const from = (k * rows + row) * columns;
      for (const [left, right, weight] of across) {
        const value = logits[from + left];
        wide[to++] = value + (logits[from + right] - value) * weight;
      }
    }
    return wide;
  };
  const mask = new Uint8Array(height * width);
  const largest = new Float32Array(width);
  let [wideAbove, wideBelow, current] = [null, null, -1];
  interpolate(rows, height).forEach(([above, below, weight], y) => {
    if (above !== current) {
      wideAbove = above === current + 1 && wideBelow ? wideBelow : widen(above);
      wideBelow = below === above ? wideAbove : widen(below);
      current = above;
    }
    const indices = mask.subarray(y * width, (y + 1) * width);
    largest.fill(-Infinity);
    for (let k = 0, at = 0; k < classes; k += 1) {
      for (let x = 0; x < width; x += 1, at += 1) {
        const value = wideAbove[at] + (wideBelow[at] - wideAbove[at]) * weight;
        if (value > largest[x]) {
          largest[x] = value;
          indices[x] = k;
        }
      }
    }
  });
  return mask;
}
