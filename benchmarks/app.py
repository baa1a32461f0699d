"""Measures the page of `cunet app` in headless Chromium: from a stroke to its picture, and bytes until the first one.

    python benchmarks/app.py runs/digits --node-modules node_modules

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

from rows import write

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


def measure(site: Path, arguments: argparse.Namespace, threads: int, evaluations: int) -> dict[str, Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Isolated, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        words = [arguments.node_modules.absolute(), chromium, url, threads, evaluations, arguments.strokes]
        driver = str(Path(__file__).with_name("app.mjs"))
        run = subprocess.run(["node", driver, *map(str, words)], capture_output=True, text=True, timeout=1800)
    finally:
        server.shutdown()
    if run.returncode:
        raise SystemExit(run.stderr)
    seen: dict[str, Any] = json.loads(run.stdout)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="what `cunet export` takes")
    parser.add_argument("--node-modules", type=Path, required=True, help="the folder with playwright-core")
    parser.add_argument("--ort-dir", help="the folder of onnxruntime-web, if it was not fetched")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--strokes", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "app.csv")
    arguments = parser.parse_args()
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
