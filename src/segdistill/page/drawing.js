// Draws a picture and its mask on a canvas, and looks classes up under a point.

/** One 32-bit pixel of ImageData, whose bytes are red, green, blue, alpha. */
function opaque([red, green, blue]) {
  return new Uint32Array(new Uint8ClampedArray([red, green, blue, 255]).buffer)[0];
}

export class Drawing {
  /**
   * @param canvas to draw on
   * @param picture ImageBitmap or canvas, or null where the browser cannot show it
   * @param mask of a back end: width, height, indices (row by row), classes
   */
  constructor(canvas, picture, mask) {
    const { width, height, indices, classes } = mask;
    Object.assign(canvas, { width, height });
    Object.assign(this, { canvas, picture, indices, classes });
    this.overlay = new OffscreenCanvas(width, height);
  }

  /** Colour all classes but those of `hidden`, a set of indices. */
  paint(hidden) {
    const { width, height } = this.overlay;
    const colours = new Uint32Array(256); // 0 is transparent
    for (const { index, colour } of this.classes) if (!hidden.has(index)) colours[index] = opaque(colour);
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let at = 0; at < pixels.length; at += 1) pixels[at] = colours[this.indices[at]];
    this.overlay.getContext("2d").putImageData(image, 0, 0);
  }

  /** @param opacity of the colours, 0 to 1 */
  show(opacity) {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.globalAlpha = 1;
    context.clearRect(0, 0, width, height);
    if (this.picture) context.drawImage(this.picture, 0, 0, width, height);
    context.globalAlpha = opacity;
    context.drawImage(this.overlay, 0, 0);
  }

  /** The class under a point of the window, or undefined; the canvas is fitted into its box. */
  classAt(x, y) {
    const { width, height } = this.canvas;
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height);
    const column = Math.floor((x - box.left - (box.width - width * scale) / 2) / scale);
    const row = Math.floor((y - box.top - (box.height - height * scale) / 2) / scale);
    if (column < 0 || row < 0 || column >= width || row >= height) return undefined;
    const index = this.indices[row * width + column];
    return this.classes.find((one) => one.index === index);
  }
}
