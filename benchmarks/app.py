"""Measures the page of `cunet app` in headless Chromium: from a stroke to its picture, and bytes until the first one.

    python benchmarks/app.py digits --node-modules node_modules
    python benchmarks/app.py digits --node-modules node_modules --pictures docs/images  # those of docs/app.md

The model is exported for 32x32 and 64x64 images: what it computes takes as long whatever it was trained for. Chromium,
node and playwright-core (`npm install playwright-core`) are needed, and onnxruntime-web (`cunet app fetch`).
"""

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import write

from continuous_unet.app.options import AppOptions
from continuous_unet.app.run import write_site
from continuous_unet.deploy.export import export
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.page import write_page
from continuous_unet.deploy.web_runtime import find_runtime

ROOT = Path(__file__).parents[1]


class Isolated(SimpleHTTPRequestHandler):
    """Serves files with the headers that allow threads."""

    def log_message(self, *args: Any) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def drive(site: Path, arguments: argparse.Namespace, driver: str, *more: object) -> str:
    """Serves a page, runs a script of this folder on it, and returns what it printed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Isolated, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        words = [Path(__file__).with_name(driver), arguments.node_modules.absolute(), chromium, url, *more]
        run = subprocess.run(["node", *map(str, words)], capture_output=True, text=True, timeout=1800)
    finally:
        server.shutdown()
    if run.returncode:
        raise SystemExit(run.stderr)
    return run.stdout


def measure(site: Path, arguments: argparse.Namespace, threads: int, evaluations: int) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(drive(site, arguments, "app.mjs", threads, evaluations, arguments.strokes))
    return seen


def photograph() -> Image.Image:
    """Returns a photograph of NASA (in the public domain) with noise of standard deviation 25, always the same."""
    from skimage import data  # of the extra `benchmarks`

    part = np.asarray(Image.fromarray(data.astronaut()[:300]).resize((384, 225), Image.Resampling.LANCZOS), np.float32)
    noise = 25 * np.random.default_rng(0).standard_normal(part.shape)
    return Image.fromarray((part + noise).round().clip(0, 255).astype(np.uint8))


def take_pictures(arguments: argparse.Namespace) -> None:
    """Takes pictures of the page with the model, and the denoiser and an upscaler of the package, for docs/app.md."""
    with tempfile.TemporaryDirectory() as folder:
        site, photo = Path(folder) / "site", Path(folder) / "photograph.png"
        models = [arguments.model, "denoise-grey", "upscale-x2"]
        write_site(AppOptions(models=models, output=str(site), ort_dir=arguments.ort_dir))
        photograph().save(photo)
        drive(site, arguments, "app_pictures.mjs", photo, folder)
        for path in sorted(Path(folder).glob("app-*.png")):
            target = arguments.pictures / path.with_suffix(".webp").name
            Image.open(path).convert("RGB").save(target, quality=75, method=6)
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="what `cunet export` takes")
    parser.add_argument("--node-modules", type=Path, required=True, help="the folder with playwright-core")
    parser.add_argument("--ort-dir", help="the folder of onnxruntime-web, if it was not fetched")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--strokes", type=int, default=20)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the page, instead of measuring")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "app.csv")
    arguments = parser.parse_args()
    if arguments.pictures is not None:
        take_pictures(arguments)
        return
    ort, rows = find_runtime(arguments.ort_dir), []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            site = Path(folder)
            place = str(site / "model")
            export(ExportOptions(model=arguments.model, output=place, static_shape=f"1x{size}x{size}", repeats=0))
            write_page(site, [("model", "model/")], ort)
            for threads in (1, 2):
                for evaluations in (1, 2):
                    seen = measure(site, arguments, threads, evaluations)
                    low, middle, high = statistics.quantiles(seen["delays"], n=4)
                    row = {"model": Path(arguments.model).name, "image_size": size, "evaluations": evaluations}
                    row |= {"threads": threads, "strokes": len(seen["delays"])}
                    row |= {"milliseconds": middle, "milliseconds_p25": low, "milliseconds_p75": high}
                    rows.append(row | {f"bytes_{part}": number for part, number in seen["bytes"].items()})
                    print(rows[-1], seen["facts"], seen["backend"], flush=True)
    write(arguments.output, rows)


if __name__ == "__main__":
    main()
