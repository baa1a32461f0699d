// The panels of models that make pictures: paint, generate, and fill in.

import { Controls, factsOf, make, ownSteps, show } from "./controls.js";
import { Follower, pixels } from "./engine.js";
import { describe } from "./model.js";
import { addTools, Sketch } from "./sketch.js";

const inside = (panel, name) => panel.querySelector(`.${name}`);

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

  /** Runs a request and returns its result; null if a later one has replaced it, or if it failed. */
  async ask(model, request, onProgress) {
    try {
      if (!this.seen) this.facts.textContent = "Loading the model…";
      const result = await this.engine.run(this.lane, model, request, onProgress);
      if (!result) return null;
      this.seen = true;
      this.fail(null);
      this.facts.textContent = factsOf(model, result);
      return result;
    } catch (error) {
      this.fail(error);
      return null;
    }
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
    prepare(this.sketch, inside(this.panel, "tools"), this.model, false, (file) => this.open(file, (found) => this.sketch.load(found)));
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
    this.controls = new Controls(inside(panel, "controls"), models, { seed: 0, tiles: 8, steps: 20, most: 100 }, () => this.follower.change(true));
    inside(panel, "more").addEventListener("click", () => {
      const { seed } = this.controls.fields;
      seed.value = Number(seed.value) + Number(this.controls.fields.tiles.value);
      this.follower.change();
    });
    inside(panel, "compare").addEventListener("click", () => this.compare());
  }

  opened() {
    if (!this.seen) this.follower.change();
  }

  tile(list, text, label, seed) {
    const canvas = make("canvas", {});
    const button = make("button", { type: "button", "aria-label": label, click: () => this.paintOn(canvas.picture, seed) }, canvas, text);
    list.append(make("li", {}, button));
    return { canvas, button };
  }

  async make() {
    if (!this.controls.sound) return false;
    const { model } = this.controls;
    const request = this.controls.request();
    const count = this.controls.read().tiles;
    const list = this.panel.querySelector("ul.tiles");
    list.replaceChildren();
    list.request = null; // what the tiles show, once all are there
    const tiles = Array.from({ length: count }, (_, k) => {
      const seed = request.seed + k;
      return { seed, ...this.tile(list, `seed ${seed}`, `Picture of seed ${seed}; draw on it`, seed) };
    });
    for (const { seed, canvas } of tiles) {
      const result = await this.ask(model, { ...request, seed });
      if (!result || !canvas.isConnected) return false;
      show(canvas, result.picture);
      canvas.picture = result.picture;
    }
    list.request = { ...request, tiles: count };
    return true;
  }

  /** Makes the picture of the first seed with several numbers of steps, with the time of each. */
  async compare() {
    if (!this.controls.sound) return;
    const { model } = this.controls;
    const request = this.controls.request();
    const list = inside(this.panel, "compared");
    list.replaceChildren();
    for (const steps of ownSteps(model.info) ?? [1, 2, 4, 8, 16, 32]) {
      const result = await this.ask(model, { ...request, steps });
      if (!result) return;
      const text = `${steps} ${steps === 1 ? "step" : "steps"}, ${result.milliseconds.toFixed(0)} ms`;
      const { canvas } = this.tile(list, text, `${text}; draw on it`, request.seed);
      show(canvas, result.picture);
      canvas.picture = result.picture;
    }
  }
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
      if (this.controls.model !== this.model) this.prepare();
      this.follower.change(true);
    });
    this.prepare();
  }

  prepare() {
    this.model = this.controls.model;
    this.sketch.base = null;
    const bar = inside(this.panel, "tools");
    prepare(this.sketch, bar, this.model, true, (file) => this.open(file, (found) => this.sketch.load(found)));
    bar.append(make("button", { type: "button", class: "fresh", text: "A picture of the model", click: () => this.fresh() }));
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
