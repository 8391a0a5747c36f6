// What the page computes, written as the book's equations are. Nothing of the document is in here,
// so that tests can run it too.
//
// An image is a Float32Array of SIDE * SIDE numbers in [0, 1], row by row. T is a rotation in half
// turns, in [-1, 1], counter-clockwise.

import * as ort from "./ort.wasm.min.mjs";

export const SIDE = 28;
export const ALPHAS = [0.1, 0.3, 1];
export const SAMPLES = 64;
const PIXELS = SIDE * SIDE;

// One thread: several would need headers that a plain server does not send.
ort.env.wasm.numThreads = 1;

/** The model trained with a price of entropy α. `read` turns a file's name into its bytes. */
export async function load(alpha, read) {
  ort.env.wasm.wasmBinary ??= await unpacked(await read("ort-wasm-simd-threaded.wasm.gz"));
  return ort.InferenceSession.create(new Uint8Array(await read(`alpha-${alpha}.onnx`)));
}

async function unpacked(bytes) {
  const [first] = new Uint8Array(bytes);
  if (first !== 0x1f) return bytes; // the server has said that it is packed, and the browser knew
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** f and q of B images with S numbers of noise: logits (B, classes), T and log q(T | I) (S, B). */
async function run(model, images, noise) {
  const B = images.length / PIXELS;
  const found = await model.run({
    images: new ort.Tensor("float32", images, [B, 1, SIDE, SIDE]),
    noise: new ort.Tensor("float32", noise, [noise.length / B, B, 1]),
  });
  return { logits: found.logits.data, T: found.T.data, logDensity: found.log_density.data };
}

/** A_T(I)(p) = I(M(T) p), M = [[cos πT, -sin πT], [sin πT, cos πT]]: bilinear, 0 outside. */
export function warp(image, T) {
  const cos = Math.cos(Math.PI * T);
  const sin = Math.sin(Math.PI * T);
  const middle = (SIDE - 1) / 2;
  const at = (row, column) =>
    row >= 0 && row < SIDE && column >= 0 && column < SIDE ? image[row * SIDE + column] : 0;
  const turned = new Float32Array(PIXELS);
  for (let i = 0; i < PIXELS; i++) {
    const x = (i % SIDE) - middle;
    const y = Math.floor(i / SIDE) - middle;
    const column = cos * x - sin * y + middle;
    const row = sin * x + cos * y + middle;
    const left = Math.floor(column);
    const top = Math.floor(row);
    const a = column - left;
    const b = row - top;
    turned[i] =
      (1 - b) * ((1 - a) * at(top, left) + a * at(top, left + 1)) +
      b * ((1 - a) * at(top + 1, left) + a * at(top + 1, left + 1));
  }
  return turned;
}

/** T on the circle of length 2, as a number in [-1, 1). */
export const wrap = (T) => T - 2 * Math.floor((T + 1) / 2);

/** Noise to draw samples by: uniform in [-1, 1), where the flow starts. */
export const uniform = (count) => Float32Array.from({ length: count }, () => 2 * Math.random() - 1);

// The noise, evenly: what is expected under q is the mean over T at these.
const POINTS = 192;
const EVENLY = Float32Array.from({ length: POINTS }, (_, i) => (2 * i + 1) / POINTS - 1);

/** q(T | I) where it is above 0: T in rising order (beyond 1 rather than back to -1), density. */
function curveOf(T, logDensity) {
  const rising = [T[0]];
  for (let i = 1; i < POINTS; i++) {
    const further = wrap(T[i] - T[i - 1] + 1) + 1; // in [0, 2)
    rising.push(rising[i - 1] + further);
  }
  return { T: rising, density: Array.from(logDensity, Math.exp) };
}

/** The mean of T under q on the circle, atan2(E sin πT, E cos πT) / π. */
export function centre({ T }) {
  let sin = 0;
  let cos = 0;
  for (const t of T) {
    sin += Math.sin(Math.PI * t);
    cos += Math.cos(Math.PI * t);
  }
  return Math.atan2(sin, cos) / Math.PI;
}

/** T below which a share of q lies. */
export const quantile = ({ T }, share) => T[Math.min(Math.floor(share * POINTS), POINTS - 1)];

/** The shortest arc that holds so much of q: from where to where, in half turns. */
export function arc({ T }, share = 0.99) {
  const held = Math.ceil(share * POINTS) - 1;
  let shortest = [T[0], T[held]];
  for (let i = 1; i + held < POINTS; i++) {
    if (T[i + held] - T[i] < shortest[1] - shortest[0]) shortest = [T[i], T[i + held]];
  }
  return shortest;
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (l) => Math.exp(l - largest));
  const sum = powers.reduce((total, p) => total + p);
  return powers.map((p) => p / sum);
}

/** All that the page shows of an image: q, its samples, P(C | I) plain and averaged over them. */
export async function look(model, image, noise) {
  const both = new Float32Array([...EVENLY, ...noise]);
  const { logits, T, logDensity } = await run(model, image, both);
  const samples = T.slice(POINTS);
  const curve = curveOf(T.slice(0, POINTS), logDensity.slice(0, POINTS));

  // P(C | I) = E_q f(C; A_T(I)), the mean over S samples.
  const S = samples.length;
  const latent = new Float32Array(S * PIXELS);
  samples.forEach((t, s) => latent.set(warp(image, t), s * PIXELS));
  const under = await run(model, latent, new Float32Array(S));
  const classes = logits.length;
  const averaged = new Array(classes).fill(0);
  for (let s = 0; s < S; s++) {
    const p = softmax(under.logits.slice(s * classes, (s + 1) * classes));
    p.forEach((value, c) => (averaged[c] += value / S));
  }
  return { curve, samples, plain: softmax(logits), averaged };
}

/** Mean-shift: I_k = A(T_k)(I_0), T_{k+1} = T_k + γ E_q(T | I_k) T. The places T_0, …, T_K. */
export async function meanShift(model, image, steps = 8, gamma = 0.5) {
  const way = [0];
  for (let k = 0; k < steps; k++) {
    const { T, logDensity } = await run(model, warp(image, way[k]), EVENLY);
    way.push(wrap(way[k] + gamma * centre(curveOf(T, logDensity))));
  }
  return way;
}

/**
 * Strokes as MNIST has them: fitted to 20 of 28 pixels, a pen of their usual width, and the mass
 * in the middle. A stroke is a list of [x, y], in any unit, y down.
 */
export function drawn(strokes, pen = 1.1) {
  const points = strokes.flat();
  const range = (axis) => {
    const values = points.map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  };
  const [left, right] = range(0);
  const [top, bottom] = range(1);
  const scale = (20 - 2 * pen) / Math.max(right - left, bottom - top, 1e-6);
  const middle = (SIDE - 1) / 2;
  const fitted = strokes.map((stroke) =>
    stroke.map(([x, y]) => [
      middle + scale * (x - (left + right) / 2),
      middle + scale * (y - (top + bottom) / 2),
    ]),
  );
  const first = inked(fitted, pen);
  const [x, y] = middleOfMass(first);
  const moved = fitted.map((stroke) =>
    stroke.map((point) => [point[0] + middle - x, point[1] + middle - y]),
  );
  return inked(moved, pen);
}

/** How dark each pixel is: 1 within the pen's radius of a stroke, and 0 from a pixel further on. */
function inked(strokes, pen) {
  const image = new Float32Array(PIXELS);
  for (let i = 0; i < PIXELS; i++) {
    const pixel = [i % SIDE, Math.floor(i / SIDE)];
    let nearest = Infinity;
    for (const stroke of strokes) {
      stroke.forEach((point, k) => {
        nearest = Math.min(nearest, distance(pixel, stroke[Math.max(k - 1, 0)], point));
      });
    }
    image[i] = Math.min(1, Math.max(0, pen + 0.5 - nearest));
  }
  return image;
}

/** From a point to a segment from a to b. */
function distance([x, y], [ax, ay], [bx, by]) {
  const length = (bx - ax) ** 2 + (by - ay) ** 2;
  const along = length ? ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length : 0;
  const t = Math.min(1, Math.max(0, along));
  return Math.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay));
}

export function middleOfMass(image) {
  let mass = 0;
  let x = 0;
  let y = 0;
  image.forEach((value, i) => {
    mass += value;
    x += value * (i % SIDE);
    y += value * Math.floor(i / SIDE);
  });
  return [x / mass, y / mass];
}
