"""The benchmark of a machine with one GPU: it works through a plan, and leaves rows as it goes.

    python benchmarks/gpu --data images.zip --output out                   # the default plan, twelve minutes
    python benchmarks/gpu --plan benchmarks/gpu/tiny.yaml --data digits --device cpu --output out    # a dry run

A piece of the plan takes at most four minutes. What it has found is written at once, and a piece that was cut off goes
on when the same command is given again, also on another machine that has the folder of the output. Give `--only` to
work on some pieces only. `pack.py` makes an archive for a machine without a network.
"""

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from continuous_unet.base.threads import prepare_threads

prepare_threads()
import costs  # noqa: E402  # threads are settled when torch is imported
import torch  # noqa: E402
import training  # noqa: E402
import yaml  # noqa: E402
from pieces import Piece  # noqa: E402

KINDS: dict[str, Callable[[Piece], bool]] = {
    "costs": costs.costs,
    "modes": costs.modes,
    "profile": costs.profile,
    "generate": training.generate,
    "restore": training.restore,
}
LONGEST = 240.0
"""Seconds that a piece may take."""


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=here / "plan.yaml", help="YAML file of pieces, in their order")
    parser.add_argument("--output", type=Path, required=True, help="folder of everything that is kept")
    parser.add_argument("--scratch", type=Path, help="folder of large files (default: one among temporary files)")
    parser.add_argument("--data", default="scenes", help="training images (default: a built-in set)")
    parser.add_argument("--minutes", type=float, default=12.0, help="time for all pieces")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", help="names of pieces")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    scratch = options.scratch or Path(tempfile.gettempdir()) / f"gpu-benchmark-{options.output.resolve().name}"
    torch.set_float32_matmul_precision("high")
    failed = False
    for entry in yaml.safe_load(options.plan.read_text(encoding="utf-8"))["pieces"]:
        name, kind = entry.pop("name"), entry.pop("kind")
        folder = options.output / name
        if (folder / "finished").exists() or (options.only and name not in options.only):
            continue
        started = time.monotonic()
        seconds = min(LONGEST, entry.pop("seconds_of_piece", LONGEST), end - started)
        if seconds < entry.get("least", 20):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        data = entry.pop("data", options.data)
        piece = Piece(name, entry, folder, scratch / name, data, torch.device(options.device), started + seconds)
        try:
            if KINDS[kind](piece):
                (folder / "finished").touch()
        except Exception as error:  # the other pieces are worth having
            failed = True
            traceback.print_exc()
            facts = {"piece": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            Piece("failures", {}, options.output, scratch, "", piece.device, end).write(facts, "failures")
        facts = {"piece": name, "seconds": time.monotonic() - started, "finished": (folder / "finished").exists()}
        facts |= {"device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu"}
        Piece("pieces", {}, options.output, scratch, "", piece.device, end).write(
            {**facts, "torch": torch.__version__}, "pieces"
        )
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
