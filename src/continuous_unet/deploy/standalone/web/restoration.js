// Denoises and upscales pictures of any size, in tiles, as the pipelines of Python do.

import { crop, inTiles, padded, resize, toChannels } from "./resampling.js";

const together = (planes) => {
  const all = new Float32Array(planes.length * planes[0].length);
  planes.forEach((plane, c) => all.set(plane, c * plane.length));
  return all;
};
const apart = (values, count) => {
  const area = values.length / count;
  return Array.from({ length: count }, (_, c) => values.subarray(c * area, (c + 1) * area));
};

/**
 * Removes noise from a picture; `sigma` is its standard deviation on the 0-255 scale, for models that must know it.
 * A grey model takes each colour by itself.
 */
export function denoise(model, picture, { sigma = 0, ...tiling }) {
  const channels = model.shape[0];
  const multiple = model.info.size_multiple_of;
  const time = model.info.options.sigma_conditioned ? sigma : 0;
  return inTiles(picture, { multiple, ...tiling }, async (tile) => {
    const large = padded(channels === 1 ? tile : toChannels(tile, channels), multiple);
    const noisy = together(large.planes).map((value) => value * 2 - 1);
    const rows = Array(large.planes.length / channels).fill({});
    const noise = await model.predict(noisy, rows, time, {}, [channels, large.height, large.width]);
    let planes = apart(noisy.map((value, i) => (value - noise[i]) / 2 + 0.5), large.planes.length);
    if (tile.planes.length === 1 && planes.length > 1) {
      planes = [planes[0].map((_, i) => planes.reduce((sum, plane) => sum + plane[i], 0) / planes.length)];
    }
    return crop({ ...large, planes }, 0, 0, tile.height, tile.width);
  });
}

/** Enlarges a picture. A grey model adds what is missing in the luma to every colour, which keeps the hue. */
export function upscale(model, picture, tiling) {
  const { scale, residual_scale } = model.info.options;
  const channels = model.shape[0] / 2;
  const multiple = model.info.size_multiple_of;
  const alphas = model.info.schedule.alphas_cumprod;
  const [signal, noise] = [Math.sqrt(alphas.at(-1)), Math.sqrt(1 - alphas.at(-1))];
  const kind = model.info.schedule.prediction_type;
  const imageOf = (value) => (kind === "sample" ? value : kind === "epsilon" ? (-noise * value) / signal : -noise * value);
  return inTiles(picture, { multiple, scale, ...tiling }, async (tile) => {
    const enlarged = resize(tile, tile.height * scale, tile.width * scale);
    const condition = padded(toChannels(enlarged, channels), multiple);
    const area = condition.height * condition.width;
    const given = new Float32Array(2 * channels * area); // the state, which is zero for the mean, and the condition
    given.set(together(condition.planes).map((value) => value * 2 - 1), channels * area);
    const sides = [2 * channels, condition.height, condition.width];
    const prediction = await model.predict(given, [{}], alphas.length - 1, {}, sides);
    const missing = crop({ ...condition, planes: apart(prediction.map(imageOf), channels) }, 0, 0, enlarged.height, enlarged.width);
    const planes = enlarged.planes.map((plane, c) => {
      const part = missing.planes[enlarged.planes.length === 3 ? c % channels : 0];
      return plane.map((value, i) => value + part[i] / residual_scale / 2);
    });
    return { ...enlarged, planes };
  });
}
