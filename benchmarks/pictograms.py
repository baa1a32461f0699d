"""Pictograms: pictures in colour whose licences allow shipping a model, drawn from packages of the npm registry.

    python benchmarks/pictograms.py --output data/pictograms     # fetches, draws, and writes a folder with classes
    python benchmarks/pictograms.py --sheets sheets              # also a sheet of each class, to look at

`cunet train --data data/pictograms` takes the folders in it as classes, and `--captions metadata` the names of the
pictures as captions. Each package has a pinned version, and its hash and its licence are checked. The pictures have a
margin, so that training moves them a little (`data: fit: patch, random_crop: true`). The script needs `npm`, and
resvg-py of the extra `benchmarks`, which draws SVG.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Package:
    """A package of the npm registry."""

    name: str
    version: str
    sha512: str
    """The hash of its archive, in base 64."""
    licence: str
    """The SPDX identifier that it must state itself."""
    author: str = ""
    source: str = ""
    """Where the pictures come from."""

    @property
    def short(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def archive(self) -> str:
        """The name of the file that `npm pack` writes."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


NAMES = Package(
    "emoji.json",
    "16.0.0",
    "OWFSIAA5ZY2D7KTPxnS/oZTk5cs4ZE4+w/bHkpS+t6hj4AUwDH0okBGuffvsli6WMIimfgxb8ofadPC+UR+glw==",
    "MIT",
)
"""The names and the groups of Unicode's emoji."""
SETS = [
    Package(
        "@iconify-json/noto",
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        "Google (Noto Emoji)",
        "https://github.com/googlefonts/noto-emoji",
    ),
    Package(
        "@iconify-json/noto-v1",
        "1.2.5",
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Apache-2.0",
        "Google (Noto Emoji, first version)",
        "https://github.com/googlefonts/noto-emoji",
    ),
    Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
        "Twitter, Inc. and other contributors (Twemoji)",
        "https://github.com/jdecked/twemoji",
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
        "Microsoft Corporation (Fluent Emoji)",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    Package(
        "@iconify-json/emojione",
        "1.2.3",
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        "CC-BY-4.0",
        "EmojiOne and the EmojiTwo project (EmojiOne 2)",
        "https://github.com/EmojiTwo/emojitwo",
    ),
]
"""The sets of pictures. No licence asks for sharing alike; CC-BY and the others ask to be named."""

CLASSES: dict[str, dict[str, str]] = {
    "animal": {
        "cat-face": "",
        "monkey-face": "",
        "animal-mammal": "monkey-face gorilla orangutan dog-face wolf fox raccoon cat-face lion tiger-face horse-face "
        "moose unicorn deer cow-face pig-face boar mouse-face hamster rabbit-face bear polar-bear koala panda",
        "animal-amphibian": "",
    },
    "clock": {"time": "-hourglass-done -hourglass-not-done -watch -mantelpiece-clock"},
    "face": {
        "face-smiling": "",
        "face-affection": "",
        "face-tongue": "",
        "face-hand": "-shushing-face",
        "face-neutral-skeptical": "-dotted-line-face -face-in-clouds",
        "face-sleepy": "",
        "face-unwell": "",
        "face-hat": "",
        "face-glasses": "",
        "face-concerned": "",
        "face-negative": "-skull -skull-and-crossbones",
    },
    "flag": {"country-flag": ""},
    "food": {"food-prepared": "-salt", "food-asian": "-takeout-box", "food-sweet": ""},
    "fruit": {"food-fruit": "", "food-vegetable": ""},
    "heart": {"heart": "-love-letter -heart-decoration"},
    "house": {
        "place-building": "-brick -rock -wood -building-construction -statue-of-liberty -tokyo-tower",
        "place-religious": "-kaaba -shinto-shrine",
    },
    "person": {"person": "", "person-role": "-pregnant-woman -pregnant-man -pregnant-person -breast-feeding"},
    "plant": {"plant-flower": "", "plant-other": "-empty-nest -nest-with-eggs -leaf-fluttering-in-wind"},
    "sky": {
        "sky & weather": "-thermometer -closed-umbrella -umbrella -umbrella-with-rain-drops -umbrella-on-ground "
        "-snowman -snowman-without-snow -fire -droplet -milky-way -fog -wind-face -comet -water-wave"
    },
    "vehicle": {
        "transport-ground": "locomotive railway-car high-speed-train bullet-train train metro light-rail tram monorail "
        "tram-car bus oncoming-bus trolleybus minibus ambulance fire-engine police-car oncoming-police-car taxi "
        "oncoming-taxi automobile oncoming-automobile sport-utility-vehicle pickup-truck delivery-truck tractor "
        "articulated-lorry racing-car auto-rickshaw",
    },
}
"""Classes: the sub-groups of Unicode's emoji that a class takes, and of each the names alone, or those without some."""

ALIKE = 4.0
"""Two pictures of a class are the same if their root-mean-square difference, on the 0-255 scale, is below this."""
FAINT = 12.0
"""A picture whose root-mean-square difference from white is below this can hardly be seen."""


def fetch(package: Package, folder: Path) -> Path:
    """Returns the archive of a package, which `npm pack` downloads if the folder does not have it; checks its hash."""
    archive = folder / package.archive
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        named = f"{package.name}@{package.version}"
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), named]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.sha512:
        sys.exit(f"{archive} is not the archive that this script knows: its hash is {found}; delete it and try again")
    return archive


def read(archive: Path, member: str) -> Any:
    """Returns the content of a JSON file of a package."""
    with tarfile.open(archive) as opened:
        file = opened.extractfile(f"package/{member}")
        assert file is not None
        return json.load(file)


def check_licence(package: Package, archive: Path) -> None:
    """Ends the script unless a package states the licence that it had when it was chosen."""
    stated = {"package.json": read(archive, "package.json").get("license")}
    if package.source:
        stated["info.json"] = read(archive, "info.json")["license"]["spdx"]
    for where, licence in stated.items():
        if licence != package.licence:
            sys.exit(f"{where} of {package.name} states the licence {licence}, not {package.licence}")


def slug(name: str) -> str:
    """Returns a name as the sets write it: `twelve-oclock` of "twelve o’clock"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def choose(names: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Returns, by class, the names of its pictures: what the sets call them, and what a person calls them.

    Variants by colour of the skin or the hair are left out: they would outnumber everything else.
    """
    groups: dict[str, dict[str, str]] = {}
    for entry in names:
        if "skin tone" not in entry["name"]:
            words = entry["name"].replace("flag: ", "flag of ")
            groups.setdefault(entry["subgroup"], {}).setdefault(slug(entry["name"]), words)
    chosen = {}
    for kind, taken in CLASSES.items():
        found: dict[str, str] = {}
        for group, listed in taken.items():
            here, words = groups[group], listed.split()
            without = {word[1:] for word in words if word.startswith("-")}
            only = {word for word in words if not word.startswith("-")}
            found |= {k: v for k, v in here.items() if k not in without and (not only or k in only)}
        chosen[kind] = found
    return chosen


def body_of(icons: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Returns the picture of a set by one of the names that it may have there; None if the set does not have it."""
    flag = name.replace("flag-", "flag-for-flag-", 1), name.replace("flag-", "flag-for-", 1)
    for known in (name, f"{name}-face", *flag):
        alias = icons.get("aliases", {}).get(known, {})
        if set(alias) <= {"parent", "hidden"} and (icon := icons["icons"].get(alias.get("parent", known))):
            return {"width": icons.get("width", 16), "height": icons.get("height", 16), **icon}
    return None


def draw(icon: Mapping[str, Any], size: int, margin: int) -> Image.Image | None:
    """Returns a picture on white, as large as fits, with the margin around it; None if there is nothing to see."""
    import resvg_py

    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon['width']} {icon['height']}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {spaces} viewBox="{box}" width="{icon["width"]}" height="{icon["height"]}">{icon["body"]}</svg>'
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=4 * (size + 2 * margin), skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    edges = image.getchannel("A").point([255 * (alpha > 24) for alpha in range(256)]).getbbox()
    if edges is None:
        return None
    image = image.crop(edges)
    scale = size / max(image.size)
    sides = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.convert("RGBa").resize(sides, Image.Resampling.LANCZOS).convert("RGBA")
    full = size + 2 * margin
    canvas = Image.new("RGBA", (full, full), "white")
    canvas.alpha_composite(image, ((full - sides[0]) // 2, (full - sides[1]) // 2))
    return canvas.convert("RGB")


def distance(a: np.ndarray, b: np.ndarray | float) -> np.ndarray:
    """Returns the root-mean-square difference of pictures."""
    return np.sqrt(((a - b) ** 2).mean((-3, -2, -1)))


def pictures(
    names: Mapping[str, str], sets: Mapping[str, Any], size: int, margin: int
) -> Iterator[tuple[str, Image.Image]]:
    """Yields the pictures of a class with their file names, without those that are faint or nearly there already."""
    seen: list[np.ndarray] = []
    for kind, icons in sets.items():
        for name in names:
            icon = body_of(icons, name)
            image = None if icon is None else draw(icon, size, margin)
            if image is None:
                continue
            values = np.asarray(image, np.float32)
            if distance(values, 255.0) < FAINT or (seen and distance(np.stack(seen), values).min() < ALIKE):
                continue
            seen.append(values)
            yield f"{name}_{kind}.png", image


def sheet(images: list[Image.Image], columns: int = 24) -> Image.Image:
    """Returns pictures side by side."""
    side = images[0].width
    canvas = Image.new("RGB", (columns * side, side * -(-len(images) // columns)), "white")
    for place, image in enumerate(images):
        canvas.paste(image, (place % columns * side, place // columns * side))
    return canvas


def attribution() -> str:
    """Returns whom the licences ask to be named, as lines of Markdown."""
    lines = [f"- {p.author}, {p.licence}, <{p.source}> (`{p.name}` {p.version})" for p in SETS]
    return "\n".join(["The pictures were drawn, scaled and put on white from:", "", *lines]) + "\n"


def make(output: Path, packages: Path, size: int = 32, margin: int = 1, sheets: Path | None = None) -> dict[str, int]:
    """Writes the data set, and returns the number of pictures in each class."""
    archives = {package: fetch(package, packages) for package in (NAMES, *SETS)}
    for package, archive in archives.items():
        check_licence(package, archive)
    chosen = choose(read(archives[NAMES], "emoji.json"))
    sets = {package.short: read(archives[package], "icons.json") for package in SETS}
    rows, counts = [], {}
    for kind, names in chosen.items():
        images = dict(pictures(names, sets, size, margin))
        (output / kind).mkdir(parents=True, exist_ok=True)
        for file, image in images.items():
            image.save(output / kind / file)
            rows.append({"file_name": f"{kind}/{file}", "text": names[file.rpartition("_")[0]]})
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            sheet(list(images.values())).save(sheets / f"{kind}.png")
        counts[kind] = len(images)
        print(f"{kind}: {len(images)} pictures", flush=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (output / "metadata.jsonl").write_text(lines, encoding="utf-8")
    (output / "LICENCES.md").write_text(attribution(), encoding="utf-8")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/pictograms"), help="folder to write")
    parser.add_argument("--packages", type=Path, default=Path("data/packages"), help="where archives are kept")
    parser.add_argument("--size", type=int, default=32, help="longer side of a picture in pixels")
    parser.add_argument("--margin", type=int, default=1, help="white around it, which training crops from, in pixels")
    parser.add_argument("--sheets", type=Path, help="also write a sheet of each class to this folder")
    given = parser.parse_args()
    if any(given.output.glob("*/*.png")):
        sys.exit(f"{given.output} has pictures already; delete it, or choose another --output")
    counts = make(given.output, given.packages, given.size, given.margin, given.sheets)
    print(f"{sum(counts.values())} pictures of {len(counts)} classes in {given.output}")


if __name__ == "__main__":
    main()
