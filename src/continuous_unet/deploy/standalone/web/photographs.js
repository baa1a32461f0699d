// The panels that restore photographs: denoise and upscale.

import { Controls, download, show } from "./controls.js";
import { Panel } from "./making.js";

export class Restore extends Panel {
  constructor(panel, engine, models) {
    panel.append(document.getElementById("restoring").content.cloneNode(true));
    super(panel, engine);
    this.at = (name) => panel.querySelector(name);
    this.controls = new Controls(this.at(".controls"), models, { sigma: 25 }, () => this.make());
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
    this.at(".stop").addEventListener("click", () => {
      this.engine.stop(this.lane);
      this.facts.textContent = "Stopped";
    });
    this.at(".download").addEventListener("click", () => download(this.at(".result"), `${this.name}-${this.lane}d.png`));
  }

  opened() {}

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
    const bar = this.at("progress");
    bar.hidden = false;
    bar.removeAttribute("value");
    this.at(".stop").disabled = false;
    this.at(".download").disabled = true;
    const run = {};
    this.current = run;
    // the worker gets a copy
    const result = await this.ask(model, { ...this.controls.request(), picture: this.picture }, (done, total) => {
      bar.value = done / total;
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
    this.at(".before").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    this.at(".divider").setAttribute("aria-valuetext", `${share} % before, ${100 - share} % after`);
  }
}
