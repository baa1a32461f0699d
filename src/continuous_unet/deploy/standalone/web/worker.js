// Computes for the page, away from it: it stays responsive. Of each kind of work, the latest request counts; evaluations
// of an earlier one are dropped as soon as the present one has ended.

import { cover, fromImageData, toChannels, toImageData } from "./resampling.js";
import { denoise, upscale } from "./restoration.js";
import { loadRuntime, Model } from "./model.js";

const latest = new Map(); // the number of the last request, by lane
const models = new Map(); // what is loaded, or being loaded, by folder and backend
let runtimes = {};
let queue = Promise.resolve(); // sessions cannot run twice at a time

class Outdated extends Error {}

/** Lets messages arrive; a timer would wait for four milliseconds. */
const breathe = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });

function load({ folder, ort, backend, threads }) {
  const key = `${folder} ${backend}`;
  if (!models.has(key)) {
    runtimes[backend] ??= loadRuntime(new URL(ort), backend, threads);
    runtimes[backend].catch(() => delete runtimes[backend]); // another try loads it again
    const loading = runtimes[backend].then((runtime) => Model.load(runtime, new URL(folder), backend));
    models.set(key, loading);
    loading.catch(() => models.delete(key));
  }
  return models.get(key);
}

/** Returns a picture of one channel after the other, as a model takes it. */
function valuesOf(model, picture) {
  const [channels, height, width] = model.imageShape;
  const { planes } = cover(toChannels(fromImageData(picture), channels), height, width);
  const all = new Float32Array(channels * height * width);
  planes.forEach((plane, c) => all.set(plane, c * plane.length));
  return all;
}

async function makeImage(model, request, onStep) {
  const [channels, height, width] = model.imageShape;
  const image = request.picture ? valuesOf(model, request.picture) : undefined;
  const values = await model.generate({ ...request, image, onStep });
  const planes = Array.from({ length: channels }, (_, c) => values.subarray(c * height * width, (c + 1) * height * width));
  return { picture: toImageData({ planes, height, width }), evaluations: model.cost({ ...request, image }) };
}

async function restore(model, request, onTile) {
  const picture = fromImageData(request.picture);
  const tiling = { size: 256, overlap: 64, onTile };
  let tiles = 0;
  const counting = async (done, total) => {
    tiles = total;
    await onTile(done, total);
  };
  const work = model.info.task === "denoise" ? denoise : upscale;
  const made = await work(model, picture, { ...tiling, onTile: counting, sigma: request.sigma });
  return { picture: toImageData(made), evaluations: tiles };
}

async function run({ id, lane, place, request }) {
  const check = async (done, total) => {
    await breathe();
    if (latest.get(lane) !== id) throw new Outdated();
    postMessage({ id, done, total });
  };
  const model = await load(place);
  await breathe();
  if (latest.get(lane) !== id) throw new Outdated();
  const started = performance.now();
  const work = model.info.task === "generation" ? makeImage : restore;
  const result = await work(model, request, check);
  postMessage({ id, result: { ...result, milliseconds: performance.now() - started } }, [result.picture.data.buffer]);
}

addEventListener("message", ({ data }) => {
  latest.set(data.lane, data.id);
  if (data.stop) return;
  queue = queue.then(() => run(data)).catch((error) => {
    if (error instanceof Outdated) postMessage({ id: data.id, outdated: true });
    else postMessage({ id: data.id, error: error.message || String(error) });
  });
});
