// The page: takes a picture, requests its mask and shows it class by class.
import { Drawing } from "./drawing.js";

const $ = (id) => document.getElementById(id);
const KEY = "segdistill-token";
let card = null; // the server's model card
let drawing = null;
let shown = null; // the file that is on the screen
let latest = 0; // number of the latest request: the response to an older one is not shown

/** A response of the server; an error response becomes an Error with its one line. */
async function request(path, body) {
  const token = sessionStorage.getItem(KEY);
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", body, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    $("entry").hidden = false;
    $("token").focus();
    throw new Error(token ? "The server refuses this token." : "");
  }
  const message = await response.json().then(({ error }) => error, () => `status ${response.status}`);
  throw new Error(`${message}.`);
}

function form(file) {
  const body = new FormData();
  body.append("image", file, "picture"); // the server has no use for the file's name
  return body;
}

function fail(error, about = "") {
  $("error").textContent = about + error.message;
  $("error").hidden = !error.message;
  $("error").scrollIntoView({ block: "nearest" });
}

function busy(text) {
  $("status").textContent = text;
  $("progress").hidden = !text;
  $("download").disabled = Boolean(text);
}

async function loadCard() {
  try {
    card = await (await request("v1/model")).json();
  } catch (error) {
    fail(error);
    return;
  }
  const facts = [card.name, `${card.classes.length} classes`];
  if (card.parameters) facts.push(`${(card.parameters / 1e6).toFixed(2)} M parameters`);
  if (card.metrics.miou) facts.push(`mIoU ${card.metrics.miou.toFixed(3)}`);
  $("model").textContent = facts.join(" · ");
  $("chips").replaceChildren(
    ...card.classes.map(({ name, colour }) => {
      const chip = element("li");
      chip.append(swatch(colour), element("span", name));
      return chip;
    }),
  );
  $("overview").hidden = Boolean(drawing);
  $("limits").textContent = `JPEG, PNG, WebP, BMP or TIFF, up to ${Number((card.limits.max_bytes / 2 ** 20).toFixed(1))} MB.`;
}

/** Segment a file and show the result. */
async function segment(file) {
  const number = ++latest;
  $("error").hidden = true;
  if (card && file.size > card.limits.max_bytes) {
    fail(new Error(`The file has ${(file.size / 2 ** 20).toFixed(1)} MB, more than this server takes.`));
    return;
  }
  busy(`Segmenting ${file.name || "the picture"} …`);
  const started = performance.now();
  try {
    const picture = createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
    const mask = await (await request("v1/segment?format=json", form(file))).json();
    const milliseconds = performance.now() - started;
    const bitmap = await picture;
    if (number !== latest) return;
    shown = file;
    show(mask, bitmap, milliseconds);
  } catch (error) {
    if (number !== latest) return;
    busy("");
    fail(error, file.name ? `${file.name}: ` : "");
  }
}

function show(mask, bitmap, milliseconds) {
  // A background is what is left over: it starts without colour, as in the files that `predict` writes.
  const hidden = new Set(mask.classes.filter(({ index, name }) => index === 0 && name === "background").map(({ index }) => index));
  drawing = new Drawing($("canvas"), bitmap, mask, hidden);
  listClasses(mask.classes, hidden);
  const times = [
    ["From click to mask", milliseconds],
    ["In the network, with waiting", 1000 * mask.seconds.network],
    ["Decoding", 1000 * mask.seconds.decode],
  ];
  $("timing").replaceChildren(
    ...times.flatMap(([name, value]) => [element("dt", name), element("dd", `${value.toFixed(0)} ms`)]),
    element("dt", "Picture"),
    element("dd", `${mask.width} × ${mask.height}`),
  );
  $("drop").hidden = $("overview").hidden = true;
  $("view").hidden = $("result").hidden = false;
  redraw();
  busy("");
  const names = mask.classes.map(({ name }) => name);
  const note = bitmap ? "" : " This browser cannot show the picture itself, so only the colours are drawn.";
  $("status").textContent = `Done: ${names.length} ${names.length === 1 ? "class" : "classes"} in ${milliseconds.toFixed(0)} ms.${note}`;
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function swatch(colour) {
  const made = element("span", "", "swatch");
  made.style.background = `rgb(${colour})`;
  return made;
}

function listClasses(classes, hidden) {
  $("classes").replaceChildren(
    ...classes.map(({ index, name, colour, share }) => {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !hidden.has(index);
      box.dataset.index = index;
      const bar = element("span", "", "bar");
      const filled = element("span");
      filled.style.width = `${100 * share}%`;
      filled.style.background = `rgb(${colour})`;
      bar.append(filled);
      const label = document.createElement("label");
      label.append(box, swatch(colour), element("span", name), element("span", percentage(share), "share"), bar);
      const item = document.createElement("li");
      item.append(label);
      return item;
    }),
  );
}

function percentage(share) {
  return share >= 0.001 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %";
}

function redraw() {
  $("percent").textContent = `${$("opacity").value} %`;
  drawing?.show($("opacity").value / 100);
}

function toggle() {
  const boxes = [...$("classes").querySelectorAll("input")];
  drawing.hidden = new Set(boxes.filter((box) => !box.checked).map((box) => Number(box.dataset.index)));
  drawing.paint();
  redraw();
}

function tick(checked) {
  for (const box of $("classes").querySelectorAll("input")) box.checked = checked;
  toggle();
}

async function download() {
  busy("Fetching the mask …");
  try {
    const blob = await (await request("v1/segment?format=mask", form(shown))).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${(shown.name || "picture").replace(/\.[^.]*$/, "")}_mask.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    busy("");
    $("status").textContent = `Saved as ${link.download}.`;
  } catch (error) {
    busy("");
    fail(error);
  }
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
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    $("shoot").showModal();
  } catch (error) {
    fail(new Error(`The camera cannot be used: ${error.message}.`));
  }
}

function closeCamera() {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
}

function snap() {
  const still = document.createElement("canvas");
  Object.assign(still, { width: $("video").videoWidth, height: $("video").videoHeight });
  still.getContext("2d").drawImage($("video"), 0, 0);
  $("shoot").close();
  still.toBlob((blob) => segment(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92);
}

function takeFirst(files) {
  if (files?.length) segment(files[0]);
}

const choose = () => $("file").click();
$("choose").addEventListener("click", choose);
$("again").addEventListener("click", choose);
$("file").addEventListener("change", () => {
  takeFirst($("file").files);
  $("file").value = ""; // the same file can be chosen again
});
document.addEventListener("paste", (event) => takeFirst(event.clipboardData.files));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") takeFirst(event.dataTransfer.files);
  });
}
$("opacity").addEventListener("input", redraw);
$("classes").addEventListener("change", toggle);
$("all").addEventListener("click", () => tick(true));
$("none").addEventListener("click", () => tick(false));
$("download").addEventListener("click", download);
$("canvas").addEventListener("pointermove", (event) => {
  const found = drawing?.at(event.clientX, event.clientY);
  $("under").textContent = found ? `Under the pointer: ${found.name}` : "\u00a0";
});
for (const name of ["camera", "reshoot"]) $(name).addEventListener("click", openCamera);
$("snap").addEventListener("click", snap);
$("cancel").addEventListener("click", () => $("shoot").close());
$("shoot").addEventListener("close", closeCamera);
$("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("token").value);
  $("token").value = "";
  $("entry").hidden = $("error").hidden = true;
  loadCard();
});
loadCard();
