// The page: what the reader picks, draws and turns, and what is shown of it. The maths is model.js.

import {
  ALPHAS, SAMPLES, SIDE, arc, centre, drawn, load, look, meanShift, quantile, uniform, warp, wrap,
} from "./model.js";

const $ = (name) => document.querySelector(`#play [data-play="${name}"]`);
const read = async (name) => {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
};

// What is looked at.
const state = {
  image: null, // as picked or drawn, before it is turned
  strokes: [], // of the pad, in its own pixels
  noise: uniform(SAMPLES), // kept while the picture turns, so that the samples move with q
};
let digits = [];
const models = new Map(); // α → promise of a model

/** The model of the slider's α. */
const model = () => models.get(ALPHAS[$("alpha").value]);

// Degrees in words. Positive T turns to the left.
function degrees(T) {
  const whole = Math.round(180 * T);
  if (whole === 0) return "0°";
  return `${Math.abs(whole)}° to the ${whole > 0 ? "left" : "right"}`;
}
const percent = (p) => `${(100 * p).toFixed(p > 0.995 || p < 0.0005 ? 0 : 1)}%`;

// One look at a time; what was asked for meanwhile is looked at next.
let busy = false;
let asked = false;
async function update() {
  asked = true;
  if (busy) return;
  busy = true;
  try {
    while (asked) {
      asked = false;
      await lookOnce();
    }
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
  }
}

async function lookOnce() {
  const turn = -$("turn").value / 180;
  $("turned").textContent = degrees(turn);
  $("turn").setAttribute("aria-valuetext", degrees(turn));
  const alpha = `α = ${ALPHAS[$("alpha").value]}`;
  $("price").textContent = alpha;
  $("alpha").setAttribute("aria-valuetext", alpha);

  const one = await model();
  const start = performance.now();
  const image = warp(state.image, turn);
  const seen = await look(one, image, state.noise);
  const way = await meanShift(one, image);
  const ms = performance.now() - start;

  last = { image, seen, way };
  show(last);
  tell(last, ms);
}
let last = null;

function show({ image, seen, way }) {
  showDial(image, seen);
  showTable(seen);
  showWay(image, way);
}

// Pictures

/** A canvas's context for drawing in CSS pixels, cleared; sharp on any screen. */
function brush(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

const colour = (name) => getComputedStyle($("dial")).getPropertyValue(name).trim();

/** An image in a square around (x, y), white on black as the networks see it. */
function stamp(context, image, x, y, side) {
  const small = document.createElement("canvas");
  small.width = small.height = SIDE;
  const pixels = new ImageData(SIDE, SIDE);
  image.forEach((value, i) => {
    pixels.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(small, x - side / 2, y - side / 2, side, side);
}

const SIZE = 340; // of the dial, in CSS pixels
const INNER = 66; // radius of the circle of turns

/** Where a turn lies on the dial: T = 0 up, positive T to the left. */
const place = (T, radius) => [
  SIZE / 2 - radius * Math.sin(Math.PI * T),
  SIZE / 2 - radius * Math.cos(Math.PI * T),
];

/** The picture, around it the density of q (areas are probabilities), samples, mean and fan. */
function showDial(image, { curve, samples }) {
  const context = brush($("dial"), SIZE, SIZE);
  stamp(context, image, SIZE / 2, SIZE / 2, 84);

  const outer = (density) => Math.min(Math.sqrt(INNER ** 2 + 4600 * density), 122);
  context.beginPath();
  curve.T.forEach((t, i) => context.lineTo(...place(t, outer(curve.density[i]))));
  for (const t of [...curve.T].reverse()) context.lineTo(...place(t, INNER));
  context.fillStyle = colour("--play-q");
  context.fill();

  context.strokeStyle = colour("--play-line");
  context.beginPath();
  context.arc(SIZE / 2, SIZE / 2, INNER, 0, 2 * Math.PI);
  context.stroke();
  context.fillStyle = colour("--play-samples");
  for (const t of samples) {
    context.beginPath();
    context.arc(...place(t, INNER), 2.5, 0, 2 * Math.PI);
    context.fill();
  }
  context.strokeStyle = colour("--play-mean");
  context.lineWidth = 3;
  context.beginPath();
  context.moveTo(...place(centre(curve), INNER - 7));
  context.lineTo(...place(centre(curve), INNER + 16));
  context.stroke();

  // The fan from its ends to its middle, so that the likeliest pictures lie on top.
  for (const i of [0, 8, 1, 7, 2, 6, 3, 5, 4]) {
    const t = quantile(curve, (i + 0.5) / 9);
    const [x, y] = place(t, 146);
    stamp(context, warp(image, t), x, y, 38);
    context.lineWidth = 1;
    context.strokeStyle = colour("--play-line");
    context.strokeRect(x - 19, y - 19, 38, 38);
  }
}

function showTable({ plain, averaged }) {
  const rows = $("classes").rows;
  const best = averaged.indexOf(Math.max(...averaged));
  for (let c = 0; c < rows.length; c++) {
    rows[c].classList.toggle("best", c === best);
    [plain, averaged].forEach((p, column) => {
      const cell = rows[c].cells[column + 1];
      cell.textContent = percent(p[c]);
      cell.style.setProperty("--p", p[c]);
    });
  }
}

function showWay(image, way) {
  const side = 48;
  const room = side + 10;
  const context = brush($("way"), room * way.length, side + 20);
  context.fillStyle = colour("--play-text");
  context.font = "14px sans-serif";
  context.textAlign = "center";
  way.forEach((T, k) => {
    stamp(context, warp(image, T), room * (k + 0.5), side / 2, side);
    context.fillText(k ? `${Math.round(180 * T)}°`.replace("-", "−") : "now", room * (k + 0.5), side + 16);
  });
}

/** The result in words, beside the pictures and for those who do not see them. */
let later;
function tell({ seen, way }, ms) {
  const { plain, averaged, curve } = seen;
  const best = averaged.indexOf(Math.max(...averaged));
  const first = plain.indexOf(Math.max(...plain));
  const [from, to] = arc(curve);
  const reach =
    to - from > 1.9
      ? "Nearly every turn is allowed"
      : `99% of q lies from ${degrees(wrap(from))} to ${degrees(wrap(to))}, over ${Math.round(180 * (to - from))}°`;
  const words = `Averaged: ${best} (${percent(averaged[best])}). Plain: ${first} (${percent(plain[first])}). ${reach}.`;
  const moved = degrees(way[way.length - 1]);
  $("dial").setAttribute("aria-label", `The picture in a circle of turns with the density of q, samples and nine turned copies. ${reach}.`);
  $("way").setAttribute("aria-label", `Eight steps of mean-shift turn the picture by ${moved}.`);
  $("time").textContent = `Computed on this device in ${Math.round(ms)} ms.`;
  // Read aloud once the reader's hand rests.
  clearTimeout(later);
  later = setTimeout(() => ($("said").textContent = words), 300);
}

function fail(error) {
  document.getElementById("play-status").textContent =
    `The models could not be loaded (${error.message}). The picture shows what they say.`;
}

// What the reader does

function pick(number) {
  state.image = Float32Array.from(digits[number].pixels, (value) => value / 255);
  state.strokes = [];
  showPad();
  pressed(number);
  update();
}

function pressed(number) {
  [...$("digits").children].forEach((button, i) =>
    button.setAttribute("aria-pressed", i === number),
  );
}

function showPad() {
  const pad = $("pad");
  const context = brush(pad, pad.clientWidth, pad.clientHeight);
  context.lineWidth = pad.clientWidth / 12;
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = "white";
  if (!state.strokes.length) {
    context.fillStyle = "#b5b5b5";
    context.font = "15px sans-serif";
    context.textAlign = "center";
    context.fillText("or draw one here", pad.clientWidth / 2, pad.clientHeight / 2);
  }
  for (const stroke of state.strokes) {
    context.beginPath();
    for (const point of stroke) context.lineTo(...point);
    context.lineTo(...stroke[0].map((v, i) => (stroke.length > 1 ? stroke.at(-1)[i] : v + 0.1)));
    context.stroke();
  }
}

function draw(event) {
  const pad = $("pad");
  const point = [event.offsetX, event.offsetY];
  if (event.type === "pointerdown") {
    pad.setPointerCapture(event.pointerId);
    if (!state.strokes.length) $("turn").value = 0;
    state.strokes.push([point]);
    pressed(null);
  } else if (pad.hasPointerCapture(event.pointerId)) {
    state.strokes.at(-1).push(point);
  } else {
    return;
  }
  event.preventDefault();
  showPad();
  state.image = drawn(state.strokes);
  update();
}

async function start() {
  const status = document.getElementById("play-status");
  status.textContent = "Loading the models (4 MB) …";
  digits = JSON.parse(new TextDecoder().decode(await read("digits.json")));
  for (const [number, { label, pixels }] of digits.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Digit ${label}`);
    const canvas = document.createElement("canvas");
    stamp(brush(canvas, 36, 36), pixels.map((value) => value / 255), 18, 18, 36);
    button.append(canvas);
    button.addEventListener("click", () => pick(number));
    $("digits").append(button);
  }
  for (let c = 0; c < 10; c++) {
    const row = $("classes").insertRow();
    row.innerHTML = `<th scope="row">${c}</th><td></td><td></td>`;
  }

  // One after the other, that of the slider first: the first brings the engine.
  let loaded = Promise.resolve();
  for (const alpha of new Set([ALPHAS[$("alpha").value], ...ALPHAS])) {
    loaded = loaded.then(() => load(alpha, read));
    models.set(alpha, loaded);
  }
  await model();

  $("turn").addEventListener("input", update);
  $("alpha").addEventListener("input", update);
  $("again").addEventListener("click", () => {
    state.noise = uniform(SAMPLES);
    update();
  });
  $("clear").addEventListener("click", () => {
    state.strokes = [];
    showPad();
  });
  for (const type of ["pointerdown", "pointermove"]) $("pad").addEventListener(type, draw);
  new MutationObserver(() => last && show(last)).observe(document.documentElement, {
    attributeFilter: ["data-theme"],
  });

  document.getElementById("play").hidden = false;
  document.getElementById("play-still").hidden = true;
  status.hidden = true;
  pick(digits.findIndex(({ label }) => label === 9));
}

start().catch(fail);
