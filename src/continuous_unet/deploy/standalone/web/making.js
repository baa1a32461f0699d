// The panels of models that make pictures: paint, generate, and fill in.

import { Controls, download, factsOf, make, ownSteps, show, timeOf } from "./controls.js";
import { Follower, pixels } from "./engine.js";
import { describe } from "./model.js";
import { addTools, Sketch } from "./sketch.js";

const inside = (panel, name) => panel.querySelector(`.${name}`);
const SLOW = 400; // milliseconds after which a panel says that it computes

let saying = null;

/** Tells a screen reader what the last picture cost, once no more pictures come. */
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => (document.getElementById("said").textContent = text), 1000);
}

/** What all panels do: show what a result cost, and errors where they belong. */
export class Panel {
  constructor(panel, engine) {
    Object.assign(this, { panel, engine, lane: panel.id });
    panel.controller = this; // for pages that embed this one
    this.facts = inside(panel, "facts");
    this.error = [...panel.querySelectorAll(".error")].at(-1);
  }

  fail(error) {
    this.error.textContent = error ? error.message || String(error) : "";
    if (error) this.facts.textContent = "";
  }

  /** Runs a request and returns its result; null if a later one of the lane has replaced it, or if it failed. */
  async ask(model, request, { onProgress = () => {}, lane = this.lane } = {}) {
    if (!this.seen) this.facts.textContent = "Loading the model…";
    let part = "";
    const slow = setInterval(() => {
      if (this.seen || part) this.facts.textContent = `Computing… ${part}`;
    }, SLOW);
    try {
      const result = await this.engine.run(lane, model, request, (done, total) => {
        part = total > 1 ? `${done} of ${total}` : "";
        onProgress(done, total);
      });
      if (!result) return null;
      this.seen = true;
      this.fail(null);
      this.controls.learn(result);
      this.facts.textContent = factsOf(model, result);
      say(this.facts.textContent);
      return result;
    } catch (error) {
      this.fail(error);
      return null;
    } finally {
      clearInterval(slow);
    }
  }

  /** Makes the present picture again. */
  again() {
    this.follower.change();
  }

  /** Reads a picture file and gives it to `use`. */
  async open(file, use) {
    try {
      use(await pixels(file));
      this.fail(null);
    } catch (error) {
      this.fail(error);
    }
  }
}

/** Returns a button that downloads the result of a panel. */
function downloadButton(panel) {
  const click = () => panel.result.input && download(panel.result, `${panel.model.name}.png`);
  return make("button", { type: "button", class: "download", text: "Download", click });
}

function prepare(sketch, bar, model, mask, load) {
  const [channels, height, width] = describe(model.info).imageShape;
  sketch.background = mask ? null : channels === 1 ? "#000000" : "#ffffff";
  sketch.fit(height, width);
  addTools(bar, sketch, { colours: mask ? "none" : channels === 1 ? "grey" : "all", load });
  if (mask) sketch.colour = "#d03a2f";
}

/** Turns strokes into pictures while they are drawn. */
export class Paint extends Panel {
  constructor(panel, engine, models) {
    super(panel, engine);
    this.result = inside(panel, "result");
    this.follower = new Follower(() => this.make());
    this.sketch = new Sketch(inside(panel, "sketch"), (goesOn) => {
      this.since ??= performance.now();
      this.follower.change(goesOn);
    });
    this.controls = new Controls(inside(panel, "controls"), models, { label: "", strength: 0.7, seed: 0, steps: 2, most: 16 }, () => {
      if (this.controls.model !== this.model) this.prepare();
      this.follower.change();
    });
    this.prepare();
  }

  prepare() {
    this.model = this.controls.model;
    const bar = inside(this.panel, "tools");
    prepare(this.sketch, bar, this.model, false, (file) => this.open(file, (found) => this.sketch.load(found)));
    bar.append(downloadButton(this));
  }

  opened() {
    if (!this.seen) this.follower.change();
  }

  async make() {
    if (!this.controls.sound) return false;
    const picture = this.sketch.picture();
    const since = this.since;
    this.since = undefined;
    const request = { ...this.controls.request(), picture };
    const result = await this.ask(this.model, request);
    if (!result) return false;
    show(this.result, result.picture);
    Object.assign(this.result, { input: picture, request }); // so that anyone can make the picture again
    if (since !== undefined) this.result.dataset.delay = performance.now() - since;
    this.result.dataset.number = Number(this.result.dataset.number ?? 0) + 1;
    return true;
  }
}

/** Makes pictures of noise: a tile for each seed, and one for each number of steps. */
export class Generate extends Panel {
  constructor(panel, engine, models, paintOn) {
    super(panel, engine);
    this.paintOn = paintOn;
    this.follower = new Follower(() => this.make(), { fast: 0, pause: 150 });
    this.controls = new Controls(inside(panel, "controls"), models, { seed: 0, tiles: 8, steps: 20, most: 100 }, () => {
      this.offerDepths();
      this.follower.change(true);
    });
    this.offerDepths();
    inside(panel, "more").addEventListener("click", () => {
      const { seed } = this.controls.fields;
      seed.value = Number(seed.value) + Number(this.controls.fields.tiles.value);
      this.follower.change();
    });
    const several = () => ownSteps(this.controls.model.info) ?? [1, 2, 4, 8, 16, 32];
    inside(panel, "compare").addEventListener("click", () => this.compare("steps", "step", several()));
    inside(panel, "deeper").addEventListener("click", () => this.compare("solverSteps", "solver step", this.depths()));
  }

  /** Returns the numbers of solver steps to compare; those that the model knows, if there are such. */
  depths() {
    const { depths, solverSteps } = describe(this.controls.model.info);
    return solverSteps === null ? null : (depths ?? [1, 2, 4, 8]);
  }

  offerDepths() {
    inside(this.panel, "deeper").hidden = (this.depths() ?? []).length < 2;
  }

  opened() {
    if (!this.seen) this.follower.change();
  }

  /** Adds a tile to a list; its text may be changed. Until it is shown, it has the picture of an earlier one. */
  tile(list, seed, before) {
    const [, height, width] = describe(this.controls.model.info).imageShape;
    const [canvas, text] = [make("canvas", { height, width, class: "stale" }), make("span")];
    const click = () => !canvas.classList.contains("stale") && this.paintOn(canvas.picture, seed);
    list.append(make("li", {}, make("button", { type: "button", click }, canvas, text)));
    if (before) show(canvas, before);
    const tile = { seed, canvas, text };
    tile.show = (picture) => {
      show(canvas, picture);
      canvas.picture = picture;
      canvas.classList.remove("stale");
    };
    tile.write = (words) => {
      text.textContent = words;
      text.parentElement.setAttribute("aria-label", `Picture: ${words}; draw on it`);
    };
    return tile;
  }

  async make() {
    if (!this.controls.sound) return false;
    const { model } = this.controls;
    const request = this.controls.request();
    const count = this.controls.read().tiles;
    const list = this.panel.querySelector("ul.tiles");
    const before = [...list.querySelectorAll("canvas")].map(({ picture }) => picture);
    list.replaceChildren();
    list.request = null; // what the tiles show, once all are there
    const tiles = Array.from({ length: count }, (_, k) => this.tile(list, request.seed + k, before[k]));
    for (const tile of tiles) tile.write(`seed ${tile.seed}`);
    for (const { seed, canvas, show } of tiles) {
      const result = await this.ask(model, { ...request, seed });
      if (!result || !canvas.isConnected) return false;
      show(result.picture);
    }
    list.request = { ...request, tiles: count };
    return true;
  }

  /** Makes the picture of the first seed with several numbers of steps, with the time of each, and how they differ. */
  async compare(field, word, numbers) {
    if (!this.controls.sound) return;
    const { model } = this.controls;
    const request = this.controls.request();
    const list = inside(this.panel, "compared");
    list.replaceChildren();
    inside(this.panel, "comparing").hidden = false;
    const run = (this.comparing = {});
    const tiles = numbers.map((number) => {
      const tile = this.tile(list, request.seed);
      const words = `${number} ${word}${number === 1 ? "" : "s"}`;
      tile.write(words);
      return { ...tile, number, words };
    });
    for (const tile of tiles) {
      const result = await this.ask(model, { ...request, [field]: tile.number }, { lane: `${this.lane}-compare` });
      if (!result || this.comparing !== run) return;
      tile.show(result.picture);
      tile.words += `, ${timeOf(result.milliseconds)}`;
      tile.write(tile.words);
    }
    const last = tiles.at(-1).canvas.picture;
    for (const tile of tiles.slice(0, -1)) tile.write(`${tile.words}, ${(100 * difference(tile.canvas.picture, last)).toFixed(1)} %`);
  }
}

/** Returns the mean difference of the colours of two pictures, of their range. */
function difference(one, other) {
  const sum = one.data.reduce((total, value, i) => total + Math.abs(value - other.data[i]), 0);
  return sum / 255 / (0.75 * one.data.length); // the opacities are equal
}

/** Makes the marked part of a picture anew. */
export class Inpaint extends Panel {
  constructor(panel, engine, models) {
    super(panel, engine);
    this.result = inside(panel, "result");
    this.follower = new Follower(() => this.make());
    this.sketch = new Sketch(inside(panel, "sketch"), (goesOn) => this.follower.change(goesOn));
    const first = { seed: 0, steps: 10, most: 50, repeats: 3 };
    this.controls = new Controls(inside(panel, "controls"), models, first, () => {
      if (this.controls.model !== this.model) {
        this.prepare();
        this.fresh();
      } else this.follower.change(true);
    });
    this.prepare();
  }

  prepare() {
    this.model = this.controls.model;
    this.sketch.base = null;
    const bar = inside(this.panel, "tools");
    prepare(this.sketch, bar, this.model, true, (file) => this.open(file, (found) => this.sketch.load(found)));
    bar.append(make("button", { type: "button", class: "fresh", text: "A picture of the model", click: () => this.fresh() }), downloadButton(this));
  }

  opened() {
    if (!this.sketch.base) this.fresh();
  }

  /** Takes a new picture of the model to work on. */
  async fresh() {
    const { repeats, ...request } = this.controls.request();
    const seed = this.sketch.base ? Math.floor(Math.random() * 1e6) : request.seed;
    const result = await this.ask(this.model, { ...request, seed });
    if (result) this.sketch.load(result.picture);
  }

  async make() {
    if (!this.controls.sound || !this.sketch.base) return false;
    const [picture, hole] = [this.sketch.picture(), this.sketch.hole()];
    if (!hole) {
      show(this.result, picture);
      return false;
    }
    const request = { ...this.controls.request(), picture, hole };
    const result = await this.ask(this.model, request);
    if (!result) return false;
    show(this.result, result.picture);
    Object.assign(this.result, { input: picture, request });
    this.result.dataset.number = Number(this.result.dataset.number ?? 0) + 1;
    return true;
  }
}
