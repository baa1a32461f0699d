// A drawing area for a mouse, a pen, a finger and the keyboard, with tools for it.

import { make } from "./controls.js";

const SIDE = 320; // about how many dots the drawing has along a side
const MOST_UNDONE = 30;

/** A canvas that is drawn on. `changed(goesOn)` is called after each change; goesOn while a stroke is being drawn. */
export class Sketch {
  constructor(canvas, changed) {
    Object.assign(this, { canvas, changed, colour: "#ffffff", erasing: false, size: 8, past: [], base: null, background: "#000000" });
    this.layer = document.createElement("canvas"); // what was drawn
    this.cursor = null; // where the keyboard draws, from 0 to 1
    this.last = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.begin(at(event));
      event.preventDefault();
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.last || !canvas.hasPointerCapture(event.pointerId)) return;
      for (const one of event.getCoalescedEvents?.() ?? [event]) this.lineTo(at(one));
      this.tell(true);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.end());
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("blur", () => {
      this.cursor = null;
      this.render();
    });
  }

  /** Sets the size of the pictures that a model takes. Strokes are averaged over `factor` x `factor` dots. */
  fit(height, width) {
    this.factor = Math.max(1, Math.round(SIDE / Math.max(height, width)));
    const before = this.layer.width > 1 && this.past.length ? this.layer : null;
    const layer = document.createElement("canvas");
    [layer.height, layer.width] = [height * this.factor, width * this.factor];
    [this.canvas.height, this.canvas.width] = [layer.height, layer.width];
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.layer = layer;
    this.pen = layer.getContext("2d", { willReadFrequently: true });
    this.fill();
    if (before) this.pen.drawImage(before, 0, 0, layer.width, layer.height);
    this.past = before ? this.past : [];
    this.render();
  }

  fill() {
    this.pen.clearRect(0, 0, this.layer.width, this.layer.height);
    if (this.background === null) return;
    this.pen.fillStyle = this.background;
    this.pen.fillRect(0, 0, this.layer.width, this.layer.height);
  }

  remember() {
    this.past.push(this.pen.getImageData(0, 0, this.layer.width, this.layer.height));
    if (this.past.length > MOST_UNDONE) this.past.shift();
  }

  begin(point) {
    this.remember();
    this.last = point;
    this.lineTo(point);
    this.tell(true);
  }

  end() {
    if (!this.last) return;
    this.last = null;
    this.tell(false);
  }

  lineTo(point) {
    const [width, height] = [this.layer.width, this.layer.height];
    const { pen } = this;
    pen.globalCompositeOperation = this.erasing && this.background === null ? "destination-out" : "source-over";
    pen.strokeStyle = this.erasing ? (this.background ?? "#000000") : this.colour;
    pen.lineWidth = (this.size / 100) * width;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(this.last[0] * width, this.last[1] * height);
    pen.lineTo(point[0] * width, point[1] * height);
    pen.stroke();
    pen.globalCompositeOperation = "source-over";
    this.last = point;
  }

  press(event) {
    const step = event.shiftKey ? 0.1 : 0.03;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if ((event.ctrlKey || event.metaKey) && event.key === "z") this.undo();
    else if (moves[event.key]) {
      this.cursor = (this.cursor ?? [0.5, 0.5]).map((value, k) => Math.min(1, Math.max(0, value + moves[event.key][k])));
      this.render();
    } else if (event.key === " ") {
      this.cursor ??= [0.5, 0.5];
      this.begin(this.cursor);
      this.end();
    } else return;
    event.preventDefault();
  }

  undo() {
    const before = this.past.pop();
    if (!before) return;
    this.pen.clearRect(0, 0, this.layer.width, this.layer.height);
    if (before.width === this.layer.width && before.height === this.layer.height) this.pen.putImageData(before, 0, 0);
    this.tell(false);
  }

  clear() {
    this.remember();
    this.fill();
    this.tell(false);
  }

  /** Puts a picture into the drawing, so that it just covers it; below what is drawn if that is a mask. */
  load(picture) {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [picture.width, picture.height];
    copy.getContext("2d").putImageData(picture, 0, 0);
    const scale = Math.max(this.layer.width / copy.width, this.layer.height / copy.height);
    const [width, height] = [copy.width * scale, copy.height * scale];
    const smooth = width < copy.width; // a picture of the model stays exactly what it is
    const place = [(this.layer.width - width) / 2, (this.layer.height - height) / 2, width, height];
    if (this.background === null) {
      this.base = document.createElement("canvas");
      [this.base.width, this.base.height] = [this.layer.width, this.layer.height];
      const context = this.base.getContext("2d");
      context.imageSmoothingEnabled = smooth;
      context.drawImage(copy, ...place);
    } else {
      this.remember();
      this.pen.imageSmoothingEnabled = smooth;
      this.pen.drawImage(copy, ...place);
    }
    this.tell(false);
  }

  tell(goesOn) {
    this.render();
    this.changed(goesOn);
  }

  render() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.clearRect(0, 0, width, height);
    if (this.base) context.drawImage(this.base, 0, 0, width, height);
    context.globalAlpha = this.background === null ? 0.6 : 1;
    context.drawImage(this.layer, 0, 0);
    context.globalAlpha = 1;
    if (this.cursor) {
      context.strokeStyle = "#888";
      context.lineWidth = 3;
      context.beginPath();
      context.arc(this.cursor[0] * width, this.cursor[1] * height, (this.size / 200) * width + 3, 0, 7);
      context.stroke();
    }
  }

  /** Returns what was drawn as the model sees it: each pixel is the mean of its dots. */
  picture() {
    return average(this.base ?? this.layer, this.factor);
  }

  /** Returns a 1 for each pixel of the model that was mostly painted over, or null if nothing was. */
  hole() {
    const { data } = average(this.layer, this.factor);
    const hole = Uint8Array.from({ length: data.length / 4 }, (_, i) => (data[4 * i + 3] > 127 ? 1 : 0));
    return hole.some(Boolean) ? hole : null;
  }
}

function average(canvas, factor) {
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const small = new ImageData(width / factor, height / factor);
  for (let y = 0; y < small.height; y++) {
    for (let x = 0; x < small.width; x++) {
      for (let c = 0; c < 4; c++) {
        let sum = 0;
        for (let i = 0; i < factor; i++) for (let j = 0; j < factor; j++) sum += data[4 * ((y * factor + i) * width + x * factor + j) + c];
        small.data[4 * (y * small.width + x) + c] = Math.round(sum / factor ** 2);
      }
    }
  }
  return small;
}

const COLOURS = { white: "#ffffff", black: "#000000", grey: "#808080", red: "#d03a2f", yellow: "#f0c53a", green: "#3d9a4d", blue: "#2f6fd0" };
const GREYS = ["white", "black", "grey"];

/** Fills a toolbar: brush, eraser, size, colours if they are wanted, undo, clear, and a file to load. */
export function addTools(bar, sketch, { colours = "all", load }) {
  const toggles = (choices, choose, first) => {
    const buttons = choices.map(({ label, ...attributes }, k) =>
      make("button", { type: "button", "aria-pressed": String(k === first), ...attributes, click: () => pick(k) }, label ?? ""),
    );
    const pick = (k) => {
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === k)));
      choose(k);
    };
    return { buttons, pick };
  };
  const modes = toggles([{ label: "Brush", class: "brush" }, { label: "Eraser", class: "eraser" }], (k) => (sketch.erasing = k === 1), 0);
  bar.replaceChildren(...modes.buttons);
  if (colours !== "none") {
    const names = colours === "grey" ? GREYS : Object.keys(COLOURS);
    const other = make("input", { type: "color", value: "#ffffff", "aria-label": "Another colour" });
    const swatches = toggles(
      names.map((name) => ({ class: "swatch", style: `background: ${COLOURS[name]}`, "aria-label": name, title: name })),
      (k) => {
        sketch.colour = COLOURS[names[k]];
        modes.pick(0);
      },
      0,
    );
    sketch.colour = COLOURS[names[0]];
    other.addEventListener("input", () => {
      swatches.buttons.forEach((button) => button.setAttribute("aria-pressed", "false"));
      sketch.colour = other.value;
      modes.pick(0);
    });
    bar.append(...swatches.buttons, ...(colours === "grey" ? [] : [other]));
  }
  const size = make("input", { type: "range", min: 2, max: 30, value: sketch.size, class: "size" });
  size.addEventListener("input", () => (sketch.size = size.valueAsNumber));
  bar.append(
    make("label", {}, "Size", size),
    make("button", { type: "button", class: "undo", text: "Undo", click: () => sketch.undo() }),
    make("button", { type: "button", class: "clear", text: "Clear", click: () => sketch.clear() }),
    fileButton("Load a picture", load),
  );
}

/** Returns a button that asks for a picture file and calls `load(file)`. */
export function fileButton(text, load) {
  const input = make("input", { type: "file", accept: "image/*" });
  input.addEventListener("change", () => {
    if (input.files[0]) load(input.files[0]);
    input.value = "";
  });
  return make("label", { class: "file" }, text, input);
}
