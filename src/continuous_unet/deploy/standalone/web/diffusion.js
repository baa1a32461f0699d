// Makes images with an exported network in the browser. Noise and sampler equal those of runtime.py up to rounding.
// There is no framework and no build step; index.html is the page around it.

/** Returns the high 32 bits of a product of two 32-bit words. */
function multiplyHigh(a, b) {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = aLow * bHigh + aHigh * bLow + Math.floor((aLow * bLow) / 65536);
  return (aHigh * bHigh + Math.floor(middle / 65536)) >>> 0;
}

/** Returns four random words for a key of two and a counter of four words: Philox4x32-10 (Salmon et al., SC 2011). */
export function philox(key, counter) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const first = multiplyHigh(c0, 0xd2511f53);
    const second = multiplyHigh(c2, 0xcd9e8d57);
    const [low0, low2] = [Math.imul(c0, 0xd2511f53) >>> 0, Math.imul(c2, 0xcd9e8d57) >>> 0];
    [c0, c1, c2, c3] = [(second ^ c1 ^ k0) >>> 0, low2, (first ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** Returns the standard normal numbers of one image of a seed (0 to 2**53 - 1), as `normal_noise` in runtime.py. */
export function normalNoise(seed, number, count, stream = 0) {
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  const noise = new Float32Array(Math.ceil(count / 4) * 4);
  for (let block = 0; block * 4 < count; block++) {
    const uniform = philox(key, [block, number, stream, 0]).map((word) => (word + 0.5) / 2 ** 32);
    for (let pair = 0; pair < 4; pair += 2) {
      const radius = Math.sqrt(-2 * Math.log(uniform[pair]));
      const angle = 2 * Math.PI * uniform[pair + 1];
      noise[block * 4 + pair] = radius * Math.cos(angle);
      noise[block * 4 + pair + 1] = radius * Math.sin(angle);
    }
  }
  return noise.subarray(0, count);
}

/** Rounds to the nearest whole number, and halves to the even one, as NumPy does. */
function roundToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Returns the timesteps of DDIM, first to last. */
export function ddimTimesteps(schedule, steps) {
  const total = schedule.alphas_cumprod.length;
  const indices = [...Array(steps).keys()];
  if (schedule.timestep_spacing === "trailing") {
    return indices.map((i) => roundToEven(total - i * (total / steps)) - 1);
  }
  if (schedule.timestep_spacing === "leading") {
    return indices.map((i) => (steps - 1 - i) * Math.floor(total / steps) + schedule.steps_offset);
  }
  return indices.map((i) => (steps === 1 ? 0 : roundToEven(((steps - 1 - i) * (total - 1)) / (steps - 1))));
}

/** Returns the stream of normalNoise for the new noise of step number k of a table, as FRESH_STREAM in runtime.py. */
const freshStream = (k) => 1024 + k;

/**
 * Returns the rows of a sampling: the model's own table for this number of steps if it has one, else those of DDIM, or of
 * Euler's method for flow matching. A row has the fields of Row in runtime.py.
 */
export function samplingRows(schedule, steps) {
  const known = (schedule.tables ?? []).find((rows) => rows.length === steps);
  if (known) return known;
  if (schedule.process === "flow") {
    const t = [...Array(steps).keys()].map((k) => {
      const even = 1 - k / steps;
      return (schedule.shift * even) / (1 + (schedule.shift - 1) * even);
    });
    return t.map((now, k) => {
      const next = t[k + 1] ?? 0;
      const timestep = now * schedule.num_train_timesteps;
      return { timestep, signal: 1 - now, noise: now, next_signal: 1 - next, next_noise: next, fresh: false };
    });
  }
  const alphas = schedule.alphas_cumprod;
  return ddimTimesteps(schedule, steps).map((timestep) => {
    const before = timestep - Math.floor(alphas.length / steps);
    const [alpha, after] = [alphas[timestep], before >= 0 ? alphas[before] : schedule.final_alpha_cumprod];
    const [signal, noise] = [Math.sqrt(alpha), Math.sqrt(1 - alpha)];
    return { timestep, signal, noise, next_signal: Math.sqrt(after), next_noise: Math.sqrt(1 - after), fresh: false };
  });
}

/** Takes one step: changes x into the next x, by the prediction for it, and by new noise if the row is fresh. */
export function tableStep(schedule, row, x, prediction, fresh) {
  const { signal, noise } = row;
  const range = schedule.clip_sample ? schedule.clip_sample_range : Infinity;
  for (let i = 0; i < x.length; i++) {
    let image, epsilon;
    if (schedule.prediction_type === "epsilon") {
      epsilon = prediction[i];
      image = (x[i] - noise * epsilon) / signal;
    } else if (schedule.prediction_type === "sample") {
      image = prediction[i];
      epsilon = (x[i] - signal * image) / noise;
    } else if (schedule.prediction_type === "flow_prediction") {
      image = x[i] - noise * prediction[i];
      epsilon = x[i] + signal * prediction[i];
    } else {
      image = signal * x[i] - noise * prediction[i];
      epsilon = signal * prediction[i] + noise * x[i];
    }
    if (row.fresh) epsilon = fresh[i];
    x[i] = row.next_signal * Math.min(range, Math.max(-range, image)) + row.next_noise * epsilon;
  }
}

const [PADDING, START, END, UNKNOWN] = [0, 1, 2, 3]; // the first tokens of every vocabulary
// Words are separated by spaces; a mark of punctuation of ASCII is a word of its own.
const WORDS = /[!-/:-@[-`{-~]|[^ \t\n\r\f\v\u00a0\u3000!-/:-@[-`{-~]+/gu;

/** Returns start, tokens, end and padding of a text, `length` numbers in all, as `TextEncoder.tokens` in runtime.py. */
export function tokenise(text, vocabulary, length) {
  const numbers = new Map(vocabulary.map((token, number) => [token, number]));
  const inner = (text.toLowerCase().match(WORDS) ?? []).flatMap((word) => {
    const parts = [...word, " "];
    for (;;) {
      // of all neighbours that make a token, those join first whose token was learned first
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const number = numbers.get(parts[i] + parts[i + 1]) ?? Infinity;
        if (number < best) [best, at] = [number, i];
      }
      if (at < 0) return parts.map((part) => numbers.get(part) ?? UNKNOWN);
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  });
  const kept = [START, ...inner.slice(0, length - 2), END];
  return [...kept, ...Array(length - kept.length).fill(PADDING)];
}

const ARRAYS = { float32: Float32Array, int64: BigInt64Array, bool: Uint8Array }; // by the type of an input
const CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1/dist/";

/** Loads onnxruntime-web from the folder `ort` next to the page if it exists, else from a content network. */
export async function loadRuntime(backend) {
  const file = backend === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  const beside = new URL("./ort/", import.meta.url).href;
  let place = CDN;
  try {
    if ((await fetch(beside + file, { method: "HEAD" })).ok) place = beside;
  } catch {
    // no answer: the folder does not exist
  }
  try {
    const ort = await import(place + file);
    ort.env.wasm.wasmPaths = place;
    ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
    return ort;
  } catch (error) {
    throw new Error(
      `onnxruntime-web could not be loaded from ${place}. Put its dist folder next to this page as "ort". (${error.message})`
    );
  }
}

/** An exported model: the contents of export.json, and a session of onnxruntime-web. */
export class Model {
  static async load(folder, backend = "wasm") {
    const answer = await fetch(new URL("export.json", folder));
    if (!answer.ok) throw new Error(`export.json is missing (${answer.status}): this page must lie in an export`);
    const info = await answer.json();
    const [ort, network] = await Promise.all([loadRuntime(backend), fetch(new URL(info.network, folder))]);
    if (!network.ok) throw new Error(`${info.network} is missing (${network.status}): the export is incomplete`);
    const open = async (answer) =>
      ort.InferenceSession.create(await answer.arrayBuffer(), { executionProviders: [backend] });
    const text = info.conditions?.text;
    if (!text) return new Model(ort, await open(network), info);
    const parts = await Promise.all([text.network, text.vocabulary].map((name) => fetch(new URL(name, folder))));
    const missing = parts.find((part) => !part.ok);
    if (missing) throw new Error(`${new URL(missing.url).pathname} is missing (${missing.status}): the export is incomplete`);
    const encoder = { session: await open(parts[0]), vocabulary: await parts[1].json(), length: text.max_length };
    return new Model(ort, await open(network), info, encoder);
  }

  constructor(ort, session, info, encoder = null) {
    Object.assign(this, { ort, session, info, encoder, shape: info.image_shape });
    this.conditions = info.conditions ?? {};
    this.canBeGuided = this.conditions.null_class !== undefined || (encoder !== null && !this.conditions.needs_prompt);
    const batch = info.inputs[0].shape[0];
    this.batch = typeof batch === "number" ? batch : null;
  }

  /** Returns the conditions of images of one class and prompt, as further inputs of the network. */
  async ask({ label = this.conditions.null_class ?? 0, prompt = "" } = {}) {
    const asked = this.info.num_classes === null ? {} : { class_labels: [BigInt(label)] };
    if (!this.encoder) return asked;
    const tokens = tokenise(prompt, this.encoder.vocabulary, this.encoder.length);
    const input_ids = new this.ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
    const { encoder_hidden_states } = await this.encoder.session.run({ input_ids });
    const mask = tokens.map((token) => (token === PADDING ? 0 : 1));
    return { ...asked, encoder_hidden_states: await encoder_hidden_states.getData(), encoder_attention_mask: mask };
  }

  /** Returns an input of the network for images start to start + piece; values that are missing are those of the last. */
  input({ name, dtype, shape, default: value }, given, rows, start, piece) {
    const at = (k) => rows[Math.min(start + k, rows.length - 1)][name] ?? given[name] ?? given[value] ?? [value];
    if (shape.length === 0) return new this.ort.Tensor(dtype, ARRAYS[dtype].from(at(0), dtype === "int64" ? BigInt : Number), []);
    const sides = name === "sample" ? this.shape : shape.slice(1);
    const size = sides.reduce((a, b) => a * b, 1);
    const data = new ARRAYS[dtype](piece * size);
    for (let k = 0; k < piece; k++) data.set(at(k), k * size);
    return new this.ort.Tensor(dtype, data, [piece, ...sides]);
  }

  /** Returns the prediction for images in x at one timestep, one for each of `rows`, which are their conditions. */
  async predict(x, rows, timestep, more = {}) {
    const count = rows.length;
    const size = x.length / count;
    const piece = this.batch ?? count;
    const result = new Float32Array(x.length);
    const given = { timestep: [timestep], ...more };
    const samples = rows.map((row, k) => ({ ...row, sample: x.subarray(k * size, (k + 1) * size) }));
    for (let start = 0; start < count; start += piece) {
      const inputs = Object.fromEntries(
        this.info.inputs.map((about) => [about.name, this.input(about, given, samples, start, piece)]),
      );
      const { prediction } = await this.session.run(inputs);
      result.set((await prediction.getData()).subarray(0, (Math.min(count, start + piece) - start) * size), start * size);
    }
    return result;
  }

  /** Returns the prediction for images in x, led away from that without conditions, as `guided` in runtime.py. */
  async guided(x, count, timestep, { asked, free, scale }, more = {}) {
    const rows = Array(count).fill(asked);
    if (!free || scale === 1) return this.predict(x, rows, timestep, more);
    const twice = new Float32Array(2 * x.length);
    twice.set(x);
    twice.set(x, x.length);
    const both = await this.predict(twice, [...Array(count).fill(free), ...rows], timestep, more);
    return both.subarray(0, x.length).map((without, i) => without + scale * (both[x.length + i] - without));
  }

  /**
   * Returns new images in [0, 1], one after the other; image k depends on (seed, k) alone.
   * `label` is a class by number, any class if it is missing, and `scale` that of guidance.
   * It awaits onStep(done, total, images so far) before each evaluation; an exception from it ends the sampling.
   */
  async generate({ count = 1, steps = 20, seed = 0, label, prompt, negative, scale = 1, onStep = async () => {} }) {
    const free = this.canBeGuided && scale !== 1 ? await this.ask({ prompt: negative }) : null;
    const request = { asked: await this.ask({ label, prompt }), free, scale };
    const size = this.shape.reduce((a, b) => a * b, 1);
    const noise = (stream) => {
      const all = new Float32Array(count * size);
      for (let k = 0; k < count; k++) all.set(normalNoise(seed, k, size, stream), k * size);
      return all;
    };
    const x = noise(0);
    const rows = samplingRows(this.info.schedule, steps);
    for (const [done, row] of rows.entries()) {
      await onStep(done, rows.length, x);
      const more = { next_timestep: [row.next_timestep ?? 0] };
      const prediction = await this.guided(x, count, row.timestep, request, more);
      tableStep(this.info.schedule, row, x, prediction, row.fresh ? noise(freshStream(done)) : null);
    }
    await onStep(rows.length, rows.length, x);
    if (!x.every(Number.isFinite)) throw new Error("the images have values that are not finite; export the model in another precision");
    return x.map(toUnit);
  }
}

/** Converts a value in [-1, 1] to [0, 1]. */
export function toUnit(value) {
  return Math.min(1, Math.max(0, value / 2 + 0.5));
}

/** Draws image k of images in [-1, 1] on a canvas, which gets its size. */
export function draw(canvas, [channels, height, width], images, k) {
  canvas.width = width;
  canvas.height = height;
  const area = height * width;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 4; c++) {
      const channel = channels === 1 && c < 3 ? 0 : c;
      const value = channel < channels ? images[(k * channels + channel) * area + i] : 1;
      pixels.data[i * 4 + c] = Math.round(toUnit(value) * 255);
    }
  }
  context.putImageData(pixels, 0, 0);
}
