// Pixels of photographs: planes of numbers in [0, 1], bicubic resampling, mirrored edges, and overlapping tiles.
// A picture is { planes: [Float32Array of height x width for each channel], height, width }.

export const LUMA = [0.299, 0.587, 0.114];

/** Returns the picture in an ImageData; grey if all its colours are equal. Transparency is laid over white. */
export function fromImageData({ data, width, height }) {
  const planes = [0, 1, 2].map(() => new Float32Array(width * height));
  let grey = true;
  for (let i = 0; i < width * height; i++) {
    const alpha = data[4 * i + 3] / 255;
    for (let c = 0; c < 3; c++) planes[c][i] = (data[4 * i + c] * alpha + 255 * (1 - alpha)) / 255;
    grey &&= data[4 * i] === data[4 * i + 1] && data[4 * i] === data[4 * i + 2];
  }
  return { planes: grey ? planes.slice(0, 1) : planes, width, height };
}

/** Returns an ImageData of planes in [0, 1]. */
export function toImageData({ planes, width, height }) {
  const picture = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) picture.data[4 * i + c] = Math.round(Math.min(1, Math.max(0, planes[c % planes.length][i])) * 255);
    picture.data[4 * i + 3] = 255;
  }
  return picture;
}

/** Returns the picture with the channels of a model: the luma of colour, or grey repeated. */
export function toChannels(picture, channels) {
  const { planes } = picture;
  if (channels === 1 && planes.length === 3) {
    return { ...picture, planes: [planes[0].map((red, i) => LUMA[0] * red + LUMA[1] * planes[1][i] + LUMA[2] * planes[2][i])] };
  }
  return { ...picture, planes: Array.from({ length: channels }, (_, c) => planes[c % planes.length]) };
}

function cubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

/** Returns begin and weights of the source pixels of every pixel of a longer or shorter line. */
function taps(from, to) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, k) => {
    const centre = (k + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - 2 * stretch + 0.5));
    const last = Math.min(from, Math.floor(centre + 2 * stretch + 0.5));
    const weights = Array.from({ length: last - first }, (_, j) => cubic((first + j - centre + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

function resizePlane(plane, height, width, tall, wide) {
  const across = new Float32Array(height * wide);
  taps(width, wide).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (let j = 0; j < weights.length; j++) sum += weights[j] * plane[y * width + first + j];
      across[y * wide + x] = sum;
    }
  });
  const result = new Float32Array(tall * wide);
  taps(height, tall).forEach(({ first, weights }, y) => {
    for (let x = 0; x < wide; x++) {
      let sum = 0;
      for (let j = 0; j < weights.length; j++) sum += weights[j] * across[(first + j) * wide + x];
      result[y * wide + x] = sum;
    }
  });
  return result;
}

/** Resizes a picture by antialiased bicubic interpolation, as images/resampling.py; values may leave their range. */
export function resize({ planes, height, width }, tall, wide) {
  return { planes: planes.map((plane) => resizePlane(plane, height, width, tall, wide)), height: tall, width: wide };
}

/** Scales a picture until it just covers a size, and cuts out its middle, as `fitted` in runtime.py. */
export function cover(picture, height, width) {
  const scale = Math.max(height / picture.height, width / picture.width);
  const [tall, wide] = [Math.max(height, Math.round(picture.height * scale)), Math.max(width, Math.round(picture.width * scale))];
  const large = tall === picture.height && wide === picture.width ? picture : resize(picture, tall, wide);
  const cut = crop(large, Math.round((tall - height) / 2), Math.round((wide - width) / 2), height, width);
  return { ...cut, planes: cut.planes.map((plane) => plane.map((value) => Math.min(1, Math.max(0, value)))) };
}

/** Returns a part of a picture. */
export function crop({ planes, width: whole }, top, left, height, width) {
  const cut = (plane) => {
    const part = new Float32Array(height * width);
    for (let y = 0; y < height; y++) part.set(plane.subarray((top + y) * whole + left, (top + y) * whole + left + width), y * width);
    return part;
  };
  return { planes: planes.map(cut), height, width };
}

/** Mirrors a picture at the right and the bottom up to a multiple; repeats its edge if it is too small for that. */
export function padded({ planes, height, width }, multiple) {
  const [tall, wide] = [height, width].map((side) => Math.ceil(side / multiple) * multiple);
  const mirrored = tall - height < height && wide - width < width;
  const at = (k, side) => (k < side ? k : mirrored ? 2 * (side - 1) - k : side - 1);
  const pad = (plane) => {
    const result = new Float32Array(tall * wide);
    for (let y = 0; y < tall; y++) for (let x = 0; x < wide; x++) result[y * wide + x] = plane[at(y, height) * width + at(x, width)];
    return result;
  };
  return { planes: planes.map(pad), height: tall, width: wide };
}

/** Returns begin and end of the tiles along one side; the last one ends with the image. */
export function spans(length, size, overlap) {
  const starts = [0];
  while (starts.at(-1) + size < length) starts.push(starts.at(-1) + size - overlap);
  return starts.map((start) => [start, Math.min(start + size, length)]);
}

/** Returns the weights of one tile along one side, as images/tiling.py: those of neighbours sum to one. */
export function weights(number, all, overlap, scale) {
  const [start, stop] = all[number];
  const result = new Float32Array((stop - start) * scale).fill(1);
  const ramp = Array.from({ length: overlap * scale }, (_, k) => {
    const position = (k + 0.5) / Math.max(overlap * scale, 1);
    return Math.sin((Math.min(1, Math.max(0, 2 * position - 0.5)) * Math.PI) / 2) ** 2;
  });
  ramp.forEach((value, k) => {
    if (number > 0) result[k] = value;
  });
  ramp.forEach((value, k) => {
    if (number + 1 < all.length) result[result.length - ramp.length + k] = 1 - value;
  });
  return result;
}

/**
 * Applies `change`, from a picture to one that is `scale` times as large, to overlapping tiles, and blends them.
 * It awaits onTile(done, total) before each tile; an exception from it ends the work.
 */
export async function inTiles(picture, { size, overlap, multiple, scale = 1, onTile = async () => {} }, change) {
  [size, overlap] = [size, overlap].map((side) => Math.ceil(side / multiple) * multiple);
  const [rows, columns] = [picture.height, picture.width].map((side) => spans(side, size, overlap));
  const [height, width] = [picture.height * scale, picture.width * scale];
  const total = rows.length * columns.length;
  let planes = null;
  for (const [y, [top, bottom]] of rows.entries()) {
    for (const [x, [left, right]] of columns.entries()) {
      await onTile(y * columns.length + x, total);
      const tile = await change(crop(picture, top, left, bottom - top, right - left));
      planes ??= tile.planes.map(() => new Float32Array(height * width));
      const [down, across] = [weights(y, rows, overlap, scale), weights(x, columns, overlap, scale)];
      tile.planes.forEach((plane, c) => {
        for (let i = 0; i < down.length; i++) {
          const begin = (top * scale + i) * width + left * scale;
          for (let j = 0; j < across.length; j++) planes[c][begin + j] += plane[i * tile.width + j] * down[i] * across[j];
        }
      });
    }
  }
  await onTile(total, total);
  return { planes, height, width };
}
