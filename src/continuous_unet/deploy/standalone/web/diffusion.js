// Noise and samplers of the page; they equal those of runtime.py up to rounding. There is no framework and no build step.

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
export const freshStream = (k) => 1024 + k;

/**
 * Returns the rows of a sampling: the model's own table for this number of steps if it has one, else those of DDIM, or of
 * Euler's method for flow matching. If `firstOrder` is true, tables with steps of second order are not used. A row has
 * the fields of Row in runtime.py.
 */
export function samplingRows(schedule, steps, firstOrder = false) {
  const known = (schedule.tables ?? []).find((rows) => rows.length === steps);
  if (known && !(firstOrder && known.some((row) => row.correction))) return known;
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

/**
 * Takes one step: changes x into the next x, by the prediction for it, and by new noise if the row is fresh. Returns the
 * images that the prediction implies. A step of second order needs those of the row before.
 */
export function tableStep(schedule, row, x, prediction, fresh, before = null) {
  const { signal, noise, correction = 0 } = row;
  const images = new Float32Array(x.length);
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
    images[i] = Math.min(range, Math.max(-range, image));
    x[i] = row.next_signal * images[i] + row.next_noise * epsilon;
    if (before) x[i] += correction * (images[i] - before[i]);
  }
  return images;
}

/** Returns the number of sampling steps that are left for a strength, as `steps_to_take` in runtime.py. */
export function stepsToTake(steps, strength) {
  const left = Math.floor(steps * strength + 1e-9);
  if (left > 0) return left;
  throw new Error(`a strength of ${strength} of ${steps} sampling steps is less than one step; take a higher strength or more steps`);
}
