// The back end of `segdistill export --format web`: onnxruntime-web runs the network in this browser.
import { classMask, resizeImage, scaledSize } from "segdistill/resize";

const manifest = JSON.parse(document.getElementById("manifest").textContent);
const requested = location.hash.slice(1); // #wasm or #webgpu after the page's address
let session = null; // Promise of { runtime, network }
let turn = Promise.resolve(); // settled once the latest pass has ended

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

/** Open the network; returns what runs it. This is a worker's script too, so it refers to nothing outside. */
async function openNetwork({ module, provider, wasmBinary, model }) {
  const ort = await import(module);
  ort.env.logLevel = "error";
  Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary });
  const network = await ort.InferenceSession.create(model, { executionProviders: [provider] });
  return {
    async run(pixels, shape) {
      const { logits } = await network.run({ image: new ort.Tensor("uint8", pixels, shape) });
      return { values: await logits.getData(), dims: logits.dims };
    },
    release: () => network.release(),
  };
}

/**
 * As `openNetwork`, in a worker, so that the page stays responsive during a pass.
 *
 * From file:// browsers load no module as a worker, but a classic script that imports one. (The proxy that
 * onnxruntime-web has for this is such a module.)
 */
async function openInWorker(settings) {
  const script = `${openNetwork}
    const opened = {};
    const actions = {
      open: async (settings) => void Object.assign(opened, await openNetwork(settings)),
      run: (...given) => opened.run(...given),
    };
    onmessage = async ({ data: [action, ...given] }) => {
      try {
        postMessage({ result: await actions[action](...given) });
      } catch (error) {
        postMessage({ error: error.message });
      }
    };`;
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const worker = new Worker(address);
  const ask = (...message) =>
    new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data.result));
      worker.onerror = (event) => reject(new Error(event.message || "the worker does not start"));
      worker.postMessage(message);
    });
  try {
    await ask("open", settings);
  } catch (error) {
    worker.terminate();
    throw error;
  } finally {
    URL.revokeObjectURL(address);
  }
  return { run: (...given) => ask("run", ...given), release: () => worker.terminate() };
}

async function start(runtime) {
  const settings = {
    module: import.meta.resolve?.(runtime.module) ?? runtime.module, // a worker has no import map
    provider: runtime.provider,
    wasmBinary: await readPart(runtime.wasm),
    model: await readPart(manifest.model),
  };
  if (runtime.provider !== "wasm") return { runtime, network: await openNetwork(settings) };
  const network = await openInWorker(settings).catch((error) => {
    console.info(`The network runs in the page, not in a worker: ${error.message}`);
    return openNetwork(settings);
  });
  return { runtime, network };
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

/** One pass of the network, after those before it: a session does not take a second picture during a pass. */
function runInTurn(network, pixels, shape) {
  const pass = turn.then(() => network.run(pixels, shape));
  turn = pass.catch(() => {});
  return pass;
}

async function computeMask({ network }, picture) {
  const started = performance.now();
  const pixels = readPixels(picture);
  const { width, height } = pixels;
  const longSide = manifest.size ?? Math.min(Math.max(width, height), manifest.max_side);
  const [rows, columns] = scaledSize(height, width, longSide);
  const input = resizeImage(pixels, rows, columns);
  const resized = performance.now();
  const { values, dims } = await runInTurn(network, input, [1, rows, columns, 3]);
  const computed = performance.now();
  const indices = classMask(values, dims.slice(1), height, width);
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
