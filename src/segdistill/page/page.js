// The page: takes a picture, has it segmented by a back end, and shows it class by class.
import { backend } from "./backend.js";
import { Drawing } from "./drawing.js";
import { element, Legend, swatch } from "./legend.js";
import { Live } from "./live.js";
import { encodeMask } from "./png.js";

const $ = (id) => document.getElementById(id);
const VIDEO_NAME = /\.(mp4|m4v|mov|webm|mkv|avi|ogv)$/i;
let card = null; // of the network
let drawing = null;
let current = null; // name and mask of what is on the screen
let latest = 0; // number of the latest request: the result of an older one is not shown
const legend = new Legend($("classes"));
const live = new Live($("video"), showFrame);

function fail(error, name = "") {
  const message = error.message && name ? `${name}: ${error.message}` : error.message;
  $("error").textContent = message;
  $("error").hidden = !message;
  $("error").scrollIntoView({ block: "nearest" });
}

function showProgress(text) {
  $("status").textContent = text;
  $("progress").hidden = !text;
  $("download").disabled = Boolean(text);
}

async function loadCard() {
  const loading = "Loading the network …";
  if (backend.live) showProgress(loading);
  try {
    card = await backend.open();
  } catch (error) {
    if (error.name === "TokenError") {
      $("token-form").hidden = false;
      $("token").focus();
    }
    fail(error);
    return;
  } finally {
    if ($("status").textContent === loading) showProgress(""); // a picture may be on its way already
  }
  const facts = [card.name, `${card.classes.length} classes`];
  if (card.parameters) facts.push(`${(card.parameters / 1e6).toFixed(2)} M parameters`);
  if (card.metrics.miou) facts.push(`mean IoU ${card.metrics.miou.toFixed(3)}`);
  if (card.metrics.pixel_accuracy) facts.push(`pixel accuracy ${card.metrics.pixel_accuracy.toFixed(3)}`);
  if (card.runtime) facts.push(card.runtime);
  $("model").textContent = facts.join(" · ");
  $("chips").replaceChildren(
    ...card.classes.map(({ name, colour }) => {
      const chip = element("li");
      chip.append(swatch(colour), element("span", name));
      return chip;
    }),
  );
  $("overview").hidden = Boolean(drawing);
  $("limits").textContent = card.accepts;
  document.body.dataset.ready = "true";
}

const isVideo = (file) => file.type.startsWith("video/") || (!file.type && VIDEO_NAME.test(file.name));

function decode(file) {
  const options = { imageOrientation: "from-image" };
  return (backend.decode?.(file) ?? createImageBitmap(file, options)).catch(() => null);
}

/** Segment an image file and show the result. */
async function segment(file) {
  const number = ++latest;
  live.stop();
  $("error").hidden = true;
  showProgress(`Segmenting ${file.name || "the picture"} …`);
  const started = performance.now();
  try {
    const decoded = decode(file);
    const mask = await backend.segment(file, backend.live ? await decoded : null);
    const milliseconds = performance.now() - started;
    const picture = await decoded;
    if (number !== latest) return;
    legend.reset();
    show(file.name || "picture", mask, picture, [["From click to mask", milliseconds], ...mask.times]);
    showProgress("");
    const count = mask.classes.length;
    const note = picture ? "" : " This browser cannot show the picture itself, so only the colours are drawn.";
    $("status").textContent = `Done: ${count} ${count === 1 ? "class" : "classes"} in ${milliseconds.toFixed(0)} ms.${note}`;
  } catch (error) {
    if (number !== latest) return;
    showProgress("");
    if (error.name === "TokenError") $("token-form").hidden = false;
    fail(error, file.name);
  }
}

function show(name, mask, picture, times) {
  current = { name, mask };
  drawing = new Drawing($("canvas"), picture, mask);
  legend.update(mask.classes);
  $("timing").replaceChildren(
    ...times.flatMap(([label, value]) => [element("dt", label), element("dd", `${value.toFixed(0)} ms`)]),
    element("dt", "Picture"),
    element("dd", `${mask.width} × ${mask.height}`),
  );
  $("drop").hidden = $("overview").hidden = true;
  $("figure").hidden = $("result").hidden = false;
  $("playback").hidden = !live.open;
  repaint();
}

function repaint() {
  drawing?.paint(legend.hidden);
  redraw();
}

function redraw() {
  $("percent").textContent = `${$("opacity").value} %`;
  drawing?.show($("opacity").value / 100);
}

/** Play a camera's stream or a video file, and segment its frames. */
async function play(source, name) {
  const number = ++latest;
  $("error").hidden = true;
  legend.reset();
  showProgress(`Opening ${name} …`);
  try {
    await live.start(source);
    if (number !== latest) return;
    live.name = name;
    $("play").textContent = "Pause";
  } catch (error) {
    if (number === latest) fail(error, name);
  } finally {
    if (number === latest) showProgress("");
  }
}

async function showFrame(frame) {
  const number = latest;
  const started = performance.now();
  try {
    const mask = await backend.segment(null, frame);
    if (number !== latest || !live.open) return;
    const milliseconds = performance.now() - started;
    show(live.name, mask, frame, [["Per frame", milliseconds], ...mask.times]);
    $("status").textContent = `${(1000 / milliseconds).toFixed(1)} frames per second`;
  } catch (error) {
    live.stop();
    fail(error, live.name);
  }
}

function togglePlayback() {
  if ($("video").paused) $("video").play();
  else $("video").pause();
}

async function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await encodeMask(current.mask, card.classes));
  link.download = `${current.name.replace(/\.[^.]*$/, "")}_mask.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  $("status").textContent = `Saved as ${link.download}.`;
}

async function openCamera() {
  if (!navigator.mediaDevices) {
    // Browsers lend the camera to secure pages only; a telephone still offers it for the choice of a file.
    $("file").setAttribute("capture", "environment");
    $("file").click();
    $("file").removeAttribute("capture");
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (backend.live) {
      await play(stream, "camera");
      return;
    }
    $("preview").srcObject = stream;
    $("camera-dialog").showModal();
  } catch (error) {
    fail(new Error(`The camera cannot be used: ${error.message}.`));
  }
}

function closeCamera() {
  for (const track of $("preview").srcObject?.getTracks() ?? []) track.stop();
  $("preview").srcObject = null;
}

function takePhotograph() {
  const still = document.createElement("canvas");
  Object.assign(still, { width: $("preview").videoWidth, height: $("preview").videoHeight });
  still.getContext("2d").drawImage($("preview"), 0, 0);
  $("camera-dialog").close();
  still.toBlob((blob) => segment(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92);
}

async function selfTest() {
  const line = $("self-test-result");
  $("self-test").disabled = true;
  line.textContent = "Running …";
  delete line.dataset.result;
  delete line.dataset.error;
  try {
    const result = await backend.selfTest();
    const same = `${(100 * result.same).toFixed(2)} % of ${result.pixels} pixels have PyTorch's class`;
    line.textContent = `${result.passed ? "Passed" : "Failed"}: ${same}; ${result.milliseconds.toFixed(0)} ms per picture with ${result.runtime}.`;
    line.dataset.result = JSON.stringify(result);
  } catch (error) {
    line.textContent = `Failed: ${error.message}`;
    line.dataset.error = error.message || error.name;
  }
  $("self-test").disabled = false;
}

function openFirst(files) {
  if (!files?.length) return;
  if (backend.live && isVideo(files[0])) play(files[0], files[0].name);
  else segment(files[0]);
}

const on = (id, event, action) => $(id)?.addEventListener(event, action);
for (const id of ["choose", "choose-again"]) on(id, "click", () => $("file").click());
for (const id of ["camera", "camera-again"]) on(id, "click", openCamera);
on("file", "change", () => {
  openFirst($("file").files);
  $("file").value = ""; // the same file can be chosen again
});
document.addEventListener("paste", (event) => openFirst(event.clipboardData.files));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") openFirst(event.dataTransfer.files);
  });
}
on("opacity", "input", redraw);
on("classes", "change", repaint);
for (const [id, shown] of [["all", true], ["none", false]]) {
  on(id, "click", () => {
    legend.showAll(shown);
    repaint();
  });
}
on("download", "click", download);
on("canvas", "pointermove", (event) => {
  const hovered = drawing?.classAt(event.clientX, event.clientY);
  $("hovered").textContent = hovered ? `Under the pointer: ${hovered.name}` : "\u00a0";
});
on("play", "click", togglePlayback);
on("video", "play", () => ($("play").textContent = "Pause"));
on("video", "pause", () => ($("play").textContent = "Play"));
on("stop", "click", () => {
  live.stop();
  $("playback").hidden = true;
});
on("snap", "click", takePhotograph);
on("cancel", "click", () => $("camera-dialog").close());
on("camera-dialog", "close", closeCamera);
on("self-test", "click", selfTest);
on("token-form", "submit", (event) => {
  event.preventDefault();
  backend.setToken($("token").value);
  $("token").value = "";
  $("token-form").hidden = $("error").hidden = true;
  loadCard();
});
loadCard();
