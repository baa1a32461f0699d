// The panels that restore photographs: denoise and upscale.

import { Controls, download, show } from "./controls.js";
import { MOST_PIXELS } from "./engine.js";
import { Panel } from "./making.js";

export class Restore extends Panel {
  constructor(panel, engine, models) {
    panel.append(document.getElementById("restoring").content.cloneNode(true));
    super(panel, engine);
    this.at = (name) => panel.querySelector(name);
    this.controls = new Controls(this.at(".controls"), models, { sigma: 25 }, () => {
      this.opened();
      this.make();
    });
    this.at(".controls").hidden = models.length < 2 && !this.controls.fields.sigma;
    const drop = this.at(".drop");
    drop.querySelector("input").addEventListener("change", ({ target }) => {
      if (target.files[0]) this.read(target.files[0]);
      target.value = "";
    });
    drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files[0]) this.read(event.dataTransfer.files[0]);
    });
    this.at(".divider").addEventListener("input", () => this.divide());
    const stack = this.at(".stack");
    const drag = ({ clientX }) => {
      const { left, width } = stack.getBoundingClientRect();
      this.at(".divider").value = (100 * (clientX - left)) / width;
      this.divide();
    };
    stack.addEventListener("pointerdown", (event) => {
      stack.setPointerCapture(event.pointerId);
      drag(event);
    });
    stack.addEventListener("pointermove", (event) => stack.hasPointerCapture(event.pointerId) && drag(event));
    this.at(".stop").addEventListener("click", () => {
      this.engine.stop(this.lane);
      this.facts.textContent = "Stopped";
    });
    this.at(".download").addEventListener("click", () => download(this.at(".result"), `${this.name}-${this.lane}d.png`));
  }

  opened() {
    const { scale } = this.controls.model.info.options;
    if (scale) this.at(".hint").textContent = `Makes a photograph of any size ${scale} times as wide and as high.`;
  }

  again() {
    this.make();
  }

  read(file) {
    this.name = file.name.replace(/\.[^.]*$/, "");
    return this.open(file, (picture) => {
      this.picture = picture;
      this.make();
    });
  }

  async make() {
    if (!this.picture) return;
    const { model } = this.controls;
    const [width, height] = ["width", "height"].map((side) => this.picture[side] * (model.info.options.scale ?? 1));
    if (width * height > MOST_PIXELS) {
      this.fail(new Error(`the result would have ${width} x ${height} pixels, more than ${MOST_PIXELS / 1e6} million; make the picture smaller`));
      return;
    }
    const bar = this.at("progress");
    bar.hidden = false;
    bar.removeAttribute("value");
    this.at(".stop").disabled = false;
    this.at(".download").disabled = true;
    const run = {};
    this.current = run;
    // the worker gets a copy
    const result = await this.ask(model, { ...this.controls.request(), picture: this.picture }, {
      onProgress: (done, total) => (bar.value = done / total),
    });
    if (this.current !== run) return; // another photograph has come
    bar.hidden = true;
    this.at(".stop").disabled = true;
    if (!result) return;
    show(this.at(".before"), this.picture);
    show(this.at(".result"), result.picture);
    this.facts.textContent += `, ${result.picture.width} x ${result.picture.height} pixels`;
    this.at(".comparison").hidden = false;
    this.at(".download").disabled = false;
    this.at(".result").dataset.number = Number(this.at(".result").dataset.number ?? 0) + 1;
    this.divide();
  }

  divide() {
    const share = this.at(".divider").valueAsNumber;
    this.at(".stack").style.setProperty("--at", `${share}%`);
    this.at(".divider").setAttribute("aria-valuetext", `${share} % before, ${100 - share} % after`);
  }
}
