// Draws a picture and its run-length masks on a canvas, and looks classes up under a point.

/** @param runs start, length, start, length, ... in the mask read row by row */
function fill(array, runs, value) {
  for (let at = 0; at < runs.length; at += 2) array.fill(value, runs[at], runs[at] + runs[at + 1]);
}

/** One 32-bit word of ImageData, whose bytes are red, green, blue, alpha. */
function word([red, green, blue]) {
  return new Uint32Array(new Uint8ClampedArray([red, green, blue, 255]).buffer)[0];
}

export class Drawing {
  /**
   * @param canvas to draw on
   * @param picture an ImageBitmap, or null where the browser cannot show it
   * @param mask the server's JSON: width, height, classes
   * @param hidden indices of classes without colour
   */
  constructor(canvas, picture, mask, hidden) {
    const { width, height, classes } = mask;
    Object.assign(canvas, { width, height });
    this.canvas = canvas;
    this.picture = picture;
    this.classes = classes;
    this.hidden = hidden;
    this.colours = new OffscreenCanvas(width, height);
    this.indices = new Uint8Array(width * height);
    for (const { index, runs } of classes) fill(this.indices, runs, index);
    this.paint();
  }

  /** Colour the classes that are shown. */
  paint() {
    const { width, height } = this.colours;
    const context = this.colours.getContext("2d");
    const image = new ImageData(width, height);
    const words = new Uint32Array(image.data.buffer);
    for (const { index, colour, runs } of this.classes) if (!this.hidden.has(index)) fill(words, runs, word(colour));
    context.putImageData(image, 0, 0);
  }

  /** @param opacity of the colours, 0 to 1 */
  show(opacity) {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.globalAlpha = 1;
    context.clearRect(0, 0, width, height);
    if (this.picture) context.drawImage(this.picture, 0, 0, width, height);
    context.globalAlpha = opacity;
    context.drawImage(this.colours, 0, 0);
  }

  /** The class under a point of the window, or undefined; the canvas is fitted into its box. */
  at(x, y) {
    const { width, height } = this.canvas;
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height);
    const column = Math.floor((x - box.left - (box.width - width * scale) / 2) / scale);
    const row = Math.floor((y - box.top - (box.height - height * scale) / 2) / scale);
    if (column < 0 || row < 0 || column >= width || row >= height) return undefined;
    const index = this.indices[row * width + column];
    return this.classes.find((found) => found.index === index);
  }
}
