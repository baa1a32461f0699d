// An exported model in the browser: its networks in onnxruntime-web, and how images are made with them.

import { freshStream, normalNoise, samplingRows, stepsToTake, tableStep } from "./diffusion.js";
import { PADDING, tokenise } from "./text.js";

const ARRAYS = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array }; // by the type of an input
const DEPTH = "num_solver_steps"; // the input that sets the solver steps of a call
export const AGAIN_STREAM = 4096; // from here on, streams of normalNoise for the repeated steps of inpainting
const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

/** Loads onnxruntime-web from a folder, for `wasm` or `webgpu`. */
export async function loadRuntime(place, backend, threads) {
  const file = backend === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  let ort;
  try {
    ort = await import(new URL(file, place).href);
  } catch (error) {
    throw new Error(`onnxruntime-web is missing: ${new URL(file, place).pathname} could not be loaded (${error.message})`);
  }
  ort.env.wasm.wasmPaths = place.href;
  ort.env.wasm.numThreads = threads;
  return ort;
}

async function get(url) {
  let answer;
  try {
    answer = await fetch(url);
  } catch (error) {
    throw new Error(`${url.pathname} could not be loaded (${error.message})`);
  }
  const name = url.pathname.split("/").pop();
  if (!answer.ok) throw new Error(`${name} is missing (${answer.status}): the export is incomplete`);
  return answer;
}

/** Reads the description of the export in a folder. */
export async function readInfo(folder) {
  const answer = await get(new URL("export.json", folder));
  try {
    return await answer.json();
  } catch {
    throw new Error("export.json is damaged: export the model again");
  }
}

/** An exported model: the contents of export.json, and sessions of onnxruntime-web. */
export class Model {
  /** Loads the model in a folder, with `ort` from loadRuntime. */
  static async load(ort, folder, backend = "wasm") {
    const info = await readInfo(folder);
    const open = async (name) => {
      const content = await (await get(new URL(name, folder))).arrayBuffer();
      try {
        return await ort.InferenceSession.create(content, { executionProviders: [backend], logSeverityLevel: 3 });
      } catch (error) {
        throw new Error(`${name} cannot be read; export the model again (${String(error.message ?? error).slice(0, 200)})`);
      }
    };
    const session = await open(info.network);
    const parts = {};
    const text = info.conditions?.text;
    if (text) {
      const vocabulary = await (await get(new URL(text.vocabulary, folder))).json();
      parts.encoder = { session: await open(text.network), vocabulary, length: text.max_length };
    }
    if (info.codec) {
      parts.codec = { encoder: await open(info.codec.encoder), decoder: await open(info.codec.decoder) };
    }
    return new Model(ort, session, info, parts);
  }

  constructor(ort, session, info, { encoder = null, codec = null } = {}) {
    const about = describe(info);
    Object.assign(this, { ort, session, info, encoder, codec, ...about });
    const batch = info.inputs[0].shape[0];
    this.batch = typeof batch === "number" ? batch : null;
    this.depthInput = depthInput(info)?.name;
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
  input({ name, dtype, shape, default: value }, given, rows, start, piece, sample) {
    const at = (k) => rows[Math.min(start + k, rows.length - 1)][name] ?? given[name] ?? given[value] ?? [value];
    const convert = dtype === "int64" ? BigInt : Number;
    if (shape.length === 0) return new this.ort.Tensor(dtype, ARRAYS[dtype].from(at(0), convert), []);
    const sides = name === "sample" ? sample : shape.slice(1);
    const size = product(sides);
    const data = new ARRAYS[dtype](piece * size);
    for (let k = 0; k < piece; k++) data.set(dtype === "int64" ? Array.from(at(k), BigInt) : at(k), k * size);
    return new this.ort.Tensor(dtype, data, [piece, ...sides]);
  }

  /** Returns the prediction for images in x of one shape at one timestep, one for each of `rows`, their conditions. */
  async predict(x, rows, timestep, more = {}, sample = this.shape) {
    const count = rows.length;
    const size = x.length / count;
    const piece = this.batch ?? count;
    let result = null;
    const given = { timestep: [timestep], ...more };
    const samples = rows.map((row, k) => ({ ...row, sample: x.subarray(k * size, (k + 1) * size) }));
    for (let start = 0; start < count; start += piece) {
      const inputs = Object.fromEntries(
        this.info.inputs.map((about) => [about.name, this.input(about, given, samples, start, piece, sample)]),
      );
      const { prediction } = await this.session.run(inputs);
      const found = await prediction.getData();
      const each = found.length / piece;
      result ??= new Float32Array(count * each);
      result.set(found.subarray(0, (Math.min(count, start + piece) - start) * each), start * each);
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

  /** Returns latents of images in [-1, 1], or images of latents; models of pixels have both the same. */
  async convert(part, values, sides) {
    if (!this.codec) return values;
    const [session, name] = [this.codec[part], part === "encoder" ? "images" : "latents"];
    const inputs = { [name]: new this.ort.Tensor("float32", values, [values.length / product(sides), ...sides]) };
    const outputs = await session.run(inputs);
    return outputs[part === "encoder" ? "latents" : "images"].getData();
  }

  /**
   * Returns new images in [0, 1], one after the other; image k depends on (seed, k) alone, as `generate` in runtime.py.
   *
   * `label` is a class by number, any class if it is missing, and `scale` that of guidance. `image`, in [0, 1] and of
   * the size of the new images, is what they start from at a `strength`. With a `hole`, which has a 1 for each pixel to
   * fill, the rest of the image stays as it is; each step is taken `repeats` times, as `inpaint` in inpainting.py does.
   * It awaits onStep(done, total) before each evaluation; an exception from it ends the sampling.
   */
  async generate(request) {
    const { count = 1, steps = 20, seed = 0, label, prompt, negative, scale = 1, solverSteps } = request;
    const { image, strength = 0.8, hole, repeats = 1, onStep = async () => {} } = request;
    const free = this.canBeGuided && scale !== 1 ? await this.ask({ prompt: negative }) : null;
    const asking = { asked: await this.ask({ label, prompt }), free, scale };
    const size = product(this.shape);
    const noise = (stream) => {
      const all = new Float32Array(count * size);
      for (let k = 0; k < count; k++) all.set(normalNoise(seed, k, size, stream), k * size);
      return all;
    };
    const x = noise(0);
    const rows = samplingRows(this.info.schedule, steps, Boolean(hole)); // each step of a filling is repeated
    const known = image ? await this.convert("encoder", image.map((value) => value * 2 - 1), this.imageShape) : null;
    const skipped = image && !hole ? rows.length - stepsToTake(rows.length, strength) : 0;
    if (skipped > 0) mix(x, known, rows[skipped]);
    const inner = hole ? this.holeOfLatents(hole) : null;
    const times = hole ? repeats : 1;
    const total = (rows.length - skipped) * times;
    let before = null; // the images that the row before implied
    for (const [number, row] of rows.entries()) {
      for (let again = 0; number >= skipped && again < times; again++) {
        await onStep((number - skipped) * times + again, total);
        if (inner) keep(x, known, noise(0), row, inner);
        const more = { next_timestep: [row.next_timestep ?? 0] };
        if (this.depthInput && solverSteps) more[this.depthInput] = [solverSteps];
        const prediction = await this.guided(x, count, row.timestep, asking, more);
        const fresh = row.fresh ? noise(freshStream(number)) : null;
        before = tableStep(this.info.schedule, row, x, prediction, fresh, before);
        if (again + 1 < times) noiseAgain(x, row, noise(AGAIN_STREAM + number * times + again));
      }
    }
    await onStep(total, total);
    const made = await this.convert("decoder", x, this.shape);
    if (!made.every(Number.isFinite)) throw new Error("the images have values that are not finite; export the model in another precision");
    const images = made.map((value) => Math.min(1, Math.max(0, value / 2 + 0.5)));
    const area = this.imageShape[1] * this.imageShape[2];
    return hole ? images.map((value, i) => (hole[i % area] ? value : image[i % image.length])) : images;
  }

  /** Returns the evaluations of the network that a request takes for each image; with guidance, there are two a step. */
  cost(request) {
    return costOf(this.info, request);
  }

  /** Returns a hole with a 1 for each pixel that the network sees: of latents, those with any pixel to fill. */
  holeOfLatents(hole) {
    const [, height, width] = this.imageShape;
    const factor = width / this.shape[2];
    const inner = new Uint8Array((height / factor) * (width / factor));
    hole.forEach((marked, i) => {
      const [y, x] = [Math.floor(i / width), i % width];
      if (marked) inner[Math.floor(y / factor) * (width / factor) + Math.floor(x / factor)] = 1;
    });
    return inner;
  }
}

/** Makes x the images `known` with as much of the noise in x as there is at a row of a table. */
function mix(x, known, row) {
  for (let i = 0; i < x.length; i++) x[i] = row.signal * known[i % known.length] + row.noise * x[i];
}

/** Gives x, outside the hole, the images `known` with their noise at a row of a table. */
function keep(x, known, noise, row, hole) {
  for (let i = 0; i < x.length; i++) {
    if (!hole[i % hole.length]) x[i] = row.signal * known[i % known.length] + row.noise * noise[i];
  }
}

/** Undoes the step of a row by new noise, as RePaint does, so that it can be taken again. */
function noiseAgain(x, row, fresh) {
  const ratio = row.next_signal > 0 ? row.signal / row.next_signal : 0;
  const rest = Math.sqrt(Math.max(0, row.noise ** 2 - (ratio * row.next_noise) ** 2));
  for (let i = 0; i < x.length; i++) x[i] = ratio * x[i] + rest * fresh[i];
}

/** Returns the evaluations that a request takes of a model with this export.json. */
export function costOf(info, { steps = 20, scale = 1, image, strength = 0.8, hole, repeats = 1 }) {
  const rows = samplingRows(info.schedule, steps).length;
  const taken = hole ? rows * repeats : image ? stepsToTake(rows, strength) : rows;
  return taken * (describe(info).canBeGuided && scale !== 1 ? 2 : 1);
}

/** Returns the entry of the input that sets the solver steps of a call, if the network has one. */
function depthInput(info) {
  return info.inputs.find(({ name }) => name === DEPTH);
}

/** Returns what a page must know of a model, by its export.json. */
export function describe(info) {
  const shape = info.image_shape;
  const codec = info.codec ?? { channels: shape[0], factor: 1 };
  const conditions = info.conditions ?? {};
  const depth = depthInput(info);
  return {
    shape,
    imageShape: [codec.channels, shape[1] * codec.factor, shape[2] * codec.factor],
    conditions,
    canBeGuided: conditions.null_class !== undefined || (Boolean(conditions.text) && !conditions.needs_prompt),
    solverSteps: depth ? (depth.default ?? info.model.solver_steps) : null,
    depths: info.solver_steps?.depths ?? null, // those that the model was trained or measured with
  };
}
