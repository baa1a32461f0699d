// Hands work to the worker of this page, or to the server that the page came from. Of each lane, the latest request
// counts: an earlier one that is not done yet gives null.

/** The most pixels of a picture that this page takes or makes. */
export const MOST_PIXELS = 24e6;

let number = 0;

/** Computes in a worker of this page. */
class Here {
  constructor(ort, threads) {
    Object.assign(this, { ort: new URL(ort, location.href).href, threads, backend: "wasm" });
    this.waiting = new Map();
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.hear(data));
    this.worker.addEventListener("error", (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message || "the worker of the page could not be started"));
      this.waiting.clear();
    });
  }

  hear({ id, done, total, result, outdated, error }) {
    const waiting = this.waiting.get(id);
    if (!waiting) return;
    if (total !== undefined) return waiting.onProgress(done, total);
    this.waiting.delete(id);
    if (error) waiting.reject(new Error(error));
    else waiting.resolve(outdated ? null : result);
  }

  run(lane, model, request, onProgress) {
    const id = ++number;
    const place = { folder: model.folder, ort: this.ort, backend: this.backend, threads: this.threads };
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, onProgress });
      this.worker.postMessage({ id, lane, place, request });
    });
  }

  stop(lane) {
    this.worker.postMessage({ id: ++number, lane, stop: true });
  }
}

/** Computes on the server; pictures travel as PNG, and what is to be filled in is transparent there. */
class There {
  constructor() {
    this.client = crypto.getRandomValues(new Uint32Array(2)).join("-");
    this.running = new Map();
  }

  async run(lane, model, { picture, hole, ...request }, onProgress) {
    this.stop(lane);
    const control = new AbortController();
    this.running.set(lane, control);
    try {
      const body = picture ? await asPng(picture, hole) : undefined;
      const asked = { ...request, model: model.name, client: `${this.client}.${lane}`, fill: Boolean(hole) };
      const address = `api/run?request=${encodeURIComponent(JSON.stringify(asked))}`;
      const answer = await fetch(new URL(address, location.href), { method: "POST", body, signal: control.signal });
      if (answer.status === 409) return null; // a later request has come
      if (!answer.ok) throw new Error(await answer.text());
      const made = await pixels(await answer.blob(), Infinity); // the server has a bound of its own
      onProgress(1, 1);
      const about = (name) => Number(answer.headers.get(name));
      return { picture: made, evaluations: about("x-evaluations"), milliseconds: about("x-milliseconds") };
    } catch (error) {
      if (control.signal.aborted) return null;
      throw error instanceof TypeError ? new Error("the server does not answer; is it still running?") : error;
    } finally {
      if (this.running.get(lane) === control) this.running.delete(lane);
    }
  }

  stop(lane) {
    this.running.get(lane)?.abort();
  }
}

async function asPng({ data, width, height }, hole) {
  const canvas = new OffscreenCanvas(width, height);
  const copy = new ImageData(new Uint8ClampedArray(data), width, height);
  hole?.forEach((marked, i) => (copy.data[4 * i + 3] = marked ? 0 : 255));
  canvas.getContext("2d").putImageData(copy, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** Returns the pixels of an image file. */
export async function pixels(file, most = MOST_PIXELS) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name ?? "this file"} is no picture that this browser can read; choose a PNG, JPEG or WebP file`);
  }
  if (bitmap.width * bitmap.height > most) {
    throw new Error(`the picture has ${bitmap.width} x ${bitmap.height} pixels, more than ${most / 1e6} million; make it smaller`);
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/** Runs work where each model says. */
export class Engine {
  constructor(ort, threads) {
    this.make = { browser: () => new Here(ort, threads), server: () => new There() };
    this.made = {};
  }

  of(model) {
    return (this.made[model.where] ??= this.make[model.where]());
  }

  run(lane, model, request, onProgress = () => {}) {
    return this.of(model).run(lane, model, request, onProgress);
  }

  stop(lane) {
    for (const one of Object.values(this.made)) one.stop(lane);
  }

  /** Chooses between the processor (`wasm`) and the graphics card (`webgpu`) for what the browser computes. */
  set backend(name) {
    this.of({ where: "browser" }).backend = name;
  }
}

/**
 * Work that follows something that changes: asks for `work()` again when `change` is called. While the changes go on, it
 * lets a run end if the last one was fast, so that pictures appear; a slow one is replaced, or waits for a pause.
 */
export class Follower {
  constructor(work, { fast = 250, pause = 120 } = {}) {
    Object.assign(this, { work, fast, pause, running: 0, dirty: false, last: Infinity, timer: null });
  }

  change(goesOn = false) {
    clearTimeout(this.timer);
    if (goesOn && this.last > this.fast) {
      this.timer = setTimeout(() => this.start(), this.pause);
    } else if (this.running && this.last <= this.fast) {
      this.dirty = true;
    } else {
      this.start();
    }
  }

  async start() {
    this.running += 1;
    this.dirty = false;
    const started = performance.now();
    try {
      if (await this.work()) this.last = performance.now() - started;
    } finally {
      this.running -= 1;
      if (this.dirty && !this.running) this.start();
    }
  }
}
