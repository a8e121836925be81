// The back end of `segdistill export --format web`: onnxruntime-web runs the network in this browser.
import { classMask, resizeImage, scaledSize } from "segdistill/resize";

const manifest = JSON.parse(document.getElementById("manifest").textContent);
const requested = location.hash.slice(1); // #wasm or #webgpu after the page's address
let session = null; // Promise of { runtime, ort, network }

/** The bytes of a part: inlined in the page (gzip, then base64), or a file beside it. */
async function readPart(name) {
  const inlined = document.getElementById(name);
  if (!inlined) {
    const response = await fetch(name);
    if (!response.ok) throw new Error(`${name} cannot be loaded (status ${response.status}).`);
    return response.arrayBuffer();
  }
  const packed = await fetch(`data:application/gzip;base64,${inlined.textContent}`);
  return new Response(packed.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Whether this browser takes WebAssembly with SIMD: a module of its instructions, which is not run. */
function hasWebAssembly() {
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
  return typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(simd));
}

/** Whether there is a graphics processor; one that is emulated on the CPU counts only where it is asked for. */
async function hasAdapter() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && (requested === "webgpu" || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter));
}

async function start(runtime) {
  const ort = await import(runtime.module);
  ort.env.logLevel = "error";
  Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary: await readPart(runtime.wasm) });
  const options = { executionProviders: [runtime.provider] };
  const network = await ort.InferenceSession.create(await readPart(manifest.model), options);
  return { runtime, ort, network };
}

/** Start the first runtime that works here; all but the last have to pass the self-test. */
async function startAny() {
  const chosen = manifest.runtimes.filter(({ provider }) => provider === requested);
  const runtimes = chosen.length ? chosen : manifest.runtimes;
  for (const runtime of runtimes.slice(0, -1)) {
    if (runtime.provider === "webgpu" && !(await hasAdapter())) continue;
    try {
      const started = await start(runtime);
      if ((await runTests(started)).passed) return started;
      await started.network.release();
    } catch (error) {
      console.info(`${runtime.name} does not run the network: ${error.message}`);
    }
  }
  return start(runtimes.at(-1));
}

/** ImageData of a picture laid over white, as segdistill reads images. */
function readPixels(picture) {
  const { width, height } = picture;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, width, height);
}

async function computeMask({ ort, network }, picture) {
  const started = performance.now();
  const pixels = readPixels(picture);
  const { width, height } = pixels;
  const longSide = manifest.size ?? Math.min(Math.max(width, height), manifest.max_side);
  const [rows, columns] = scaledSize(height, width, longSide);
  const input = new ort.Tensor("uint8", resizeImage(pixels, rows, columns), [1, rows, columns, 3]);
  const resized = performance.now();
  const { logits } = await network.run({ image: input });
  const values = await logits.getData();
  const computed = performance.now();
  const indices = classMask(values, logits.dims.slice(1), height, width);
  const finished = performance.now();
  const times = [["Resizing the picture", resized - started], ["Network", computed - resized], ["Mask", finished - computed]];
  return { width, height, indices, times };
}

/** The classes that occur in a mask, largest first. */
function countClasses(indices) {
  const pixels = new Uint32Array(256);
  for (const index of indices) pixels[index] += 1;
  return manifest.card.classes
    .filter(({ index }) => pixels[index] > 0)
    .map((one) => ({ ...one, pixels: pixels[one.index], share: pixels[one.index] / indices.length }))
    .sort((a, b) => b.pixels - a.pixels || a.index - b.index);
}

async function decode(blob) {
  return createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
}

/** Segment the pictures of the self-test, and compare with the masks that PyTorch computed of them. */
async function runTests(started) {
  let [same, total, milliseconds] = [0, 0, 0];
  for (const { picture, mask } of manifest.tests) {
    const [bitmap, expected] = await Promise.all([picture, mask].map(async (url) => decode(await (await fetch(url)).blob())));
    const { data } = readPixels(expected); // grey: each channel is the class index
    const { indices, times } = await computeMask(started, bitmap);
    milliseconds += times.reduce((sum, [, value]) => sum + value, 0);
    indices.forEach((index, at) => (same += index === data[4 * at]));
    total += indices.length;
  }
  const passed = same >= manifest.same_class * total;
  return { passed, same: same / total, pixels: total, milliseconds: milliseconds / manifest.tests.length, runtime: started.runtime.name };
}

export const backend = {
  live: true,

  /** The network's card, with a sentence on the files that are accepted. */
  async open() {
    if (!hasWebAssembly() || typeof DecompressionStream === "undefined") {
      throw new Error("This browser lacks WebAssembly with SIMD, which the network needs: use a newer one (Chrome 91, Firefox 113, Safari 16.4 or later).");
    }
    session = startAny();
    try {
      await session;
    } catch (error) {
      throw new Error(`The network cannot be started in this browser: ${error.message}.`);
    }
    const accepts = "A photograph or a video, in any format that this browser knows.";
    return { ...manifest.card, accepts, runtime: (await session).runtime.name };
  },

  /** The mask of a picture: width, height, indices (row by row), classes (largest first), times in ms. */
  async segment(file, picture) {
    if (!picture) throw new Error("the picture cannot be decoded: it is damaged, or of a format that this browser does not know.");
    if (file) await new Promise((resolve) => setTimeout(resolve, 30)); // lets the page show that it works
    const mask = await computeMask(await session, picture);
    return { ...mask, classes: countClasses(mask.indices) };
  },

  decode,
  selfTest: async () => runTests(await session),
};
