// The fields below the pictures. A model decides which of them there are.

import { costOf, describe } from "./model.js";

/** Makes an element; `attributes` may have `text` and functions, which listen to events of their name. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Returns the numbers of sampling steps that a distilled model has, or null for any. */
export function ownSteps(info) {
  return info.only_tables ? info.schedule.tables.map((rows) => rows.length).sort((a, b) => a - b) : null;
}

/** Fields for one panel. */
export class Controls {
  /**
   * `form` gets the fields; `models` are those to choose from; `kinds` names further fields with their first values,
   * such as { seed: 0, strength: 0.7 }; `changed` is called when a value has changed.
   */
  constructor(form, models, kinds, changed) {
    Object.assign(this, { form, models, kinds, changed, fields: {}, paces: new Map(), prefix: form.closest("[role=tabpanel]").id });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      this.showValues();
      if (event.target === this.fields.model) this.build();
      changed();
    });
    this.choose = make("select", { id: `${this.prefix}-model` }, ...models.map(({ name }, k) => new Option(name, k)));
    this.build();
  }

  get model() {
    return this.models[Number(this.choose.value || 0)];
  }

  build() {
    const { info } = this.model;
    const [about, known] = [describe(info), this.read()];
    this.fields = {};
    this.form.replaceChildren();
    this.add("model", "Model", this.choose, this.models.length < 2);
    if (info.task === "generation") this.ask(info, about, known);
    for (const name of ["strength", "seed", "tiles", "repeats", "sigma"]) {
      if (name in this.kinds && (name !== "sigma" || info.options.sigma_conditioned)) this[name](known[name] ?? this.kinds[name]);
    }
    this.showValues();
  }

  ask(info, about, known) {
    const { conditions } = about;
    if (info.num_classes !== null) {
      const numbers = Array.from({ length: info.num_classes }, (_, k) => k).filter((k) => k !== conditions.null_class);
      const options = numbers.map((k) => new Option(conditions.classes?.[k] ?? String(k), k));
      if (conditions.null_class !== undefined) options.push(new Option("any", ""));
      this.add("label", "Class", make("select", {}, ...options));
      this.fields.label.value = known.label ?? this.kinds.label ?? options[0].value;
      if (this.fields.label.selectedIndex < 0) this.fields.label.selectedIndex = 0; // there is no such class
    }
    if (conditions.text) {
      this.add("prompt", "Show", make("input", { type: "text", maxlength: 1000, value: known.prompt ?? "" }), false, true);
      if (about.canBeGuided) {
        this.add("negative", "Avoid", make("input", { type: "text", maxlength: 1000, value: known.negative ?? "" }), false, true);
      }
    }
    if (about.canBeGuided) {
      this.range("scale", "Guidance", 1, 10, 0.5, known.scale ?? conditions.guidance_scale ?? 1, (value) => (value === 1 ? "none" : String(value)));
    }
    const own = ownSteps(info);
    const name = "strength" in this.kinds && !own ? "Evaluations" : "Sampling steps";
    if (own) {
      this.add("steps", name, make("select", {}, ...own.map((n) => new Option(n, n))), own.length < 2);
      this.fields.steps.value = own.at(-1);
    } else {
      const show = (value) => `${value}${this.expected()}`;
      this.range("steps", name, 1, this.kinds.most ?? 50, 1, known.steps ?? this.kinds.steps ?? 20, show);
    }
    if (about.depths && about.solverSteps !== null) {
      this.add("solverSteps", "Solver steps", make("select", {}, ...about.depths.map((n) => new Option(n, n))));
      this.fields.solverSteps.value = known.solverSteps ?? about.solverSteps;
      if (this.fields.solverSteps.selectedIndex < 0) this.fields.solverSteps.value = about.depths.at(-1);
    } else if (about.solverSteps !== null) {
      this.range("solverSteps", "Solver steps", 1, Math.max(8, about.solverSteps), 1, known.solverSteps ?? about.solverSteps);
    }
  }

  strength(value) {
    this.range("strength", "Model freedom", 0.05, 1, 0.05, value, (part) => `${Math.round(part * 100)} %`);
  }

  seed(value) {
    this.add("seed", "Seed", make("input", { type: "number", min: 0, max: 2 ** 53 - 1, step: 1, required: true, value }));
  }

  tiles(value) {
    this.add("tiles", "Pictures", make("input", { type: "number", min: 1, max: 64, step: 1, required: true, value }));
  }

  repeats(value) {
    this.range("repeats", "Rounds per step", 1, 8, 1, value);
  }

  sigma(value) {
    this.range("sigma", "Strength of the noise, of 255", 1, 75, 1, value);
  }

  add(name, label, field, hidden = false, wide = false) {
    field.id = `${this.prefix}-${name}`;
    this.fields[name] = field;
    this.form.append(make("label", { for: field.id, hidden, class: wide ? "wide" : "" }, make("span", { text: label }), field));
  }

  range(name, label, min, max, step, value, show = String) {
    this.add(name, label, make("input", { type: "range", min, max, step, value }));
    const output = make("output", { for: `${this.prefix}-${name}` });
    this.fields[name].previousSibling.append(": ", output);
    this.fields[name].show = () => (output.textContent = show(this.fields[name].valueAsNumber));
  }

  /** Remembers how long an evaluation takes, by a result, so that the fields can say what others will take. */
  learn({ milliseconds, evaluations }) {
    this.paces.set(this.kind, milliseconds / evaluations);
    this.showValues();
  }

  get kind() {
    return `${this.choose.value} ${this.fields.solverSteps?.value}`;
  }

  /** Returns the expected time of a picture for the present fields, such as ", about 40 ms", or nothing. */
  expected() {
    const pace = this.paces.get(this.kind);
    if (!pace) return "";
    const parts = { image: "strength" in this.kinds, hole: "repeats" in this.kinds };
    return `, about ${timeOf(pace * costOf(this.model.info, { ...this.request(), ...parts }))}`;
  }

  showValues() {
    for (const field of Object.values(this.fields)) field.show?.();
  }

  /** Returns whether all values can be used; the browser says which cannot. */
  get sound() {
    return this.form.reportValidity();
  }

  /** Returns the values of the fields by name; the class is a number, or undefined for any. */
  read() {
    const values = {};
    for (const [name, field] of Object.entries(this.fields)) {
      if (name === "model") continue;
      const text = name === "prompt" || name === "negative";
      values[name] = text ? field.value : field.value === "" ? undefined : Number(field.value);
    }
    return values;
  }

  /** Returns what a model is asked for: steps by evaluations and strength, where these are given. */
  request() {
    const { tiles, ...values } = this.read();
    const { info } = this.model;
    if (values.label === undefined && !values.prompt) values.scale = 1; // nothing is asked for that could guide
    if (values.strength === undefined || ownSteps(info)) {
      if (values.strength !== undefined) values.strength = Math.max(values.strength, 1 / values.steps);
      return values;
    }
    const most = info.schedule.num_train_timesteps ?? info.schedule.alphas_cumprod.length;
    return { ...values, steps: Math.min(most, Math.ceil(values.steps / values.strength - 1e-9)) };
  }
}

/** Returns a time as a person reads it. */
export function timeOf(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)} s`;
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

/** Says what a result cost, for the status line of a panel. */
export function factsOf(model, { evaluations, milliseconds }) {
  const { info } = model;
  const time = milliseconds < 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(0);
  const size = (info.size_bytes / 2 ** 20).toFixed(1);
  const work = `${evaluations} ${evaluations === 1 ? "evaluation" : "evaluations"}`;
  return `${time} ms per picture, ${work}. ${model.name}: ${(info.model.parameters / 1e6).toFixed(2)} million parameters, ${size} MB`;
}

/** Draws an ImageData on a canvas, which gets its size. */
export function show(canvas, picture) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Offers a canvas as a PNG file. */
export function download(canvas, name) {
  canvas.toBlob((blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/png");
}
