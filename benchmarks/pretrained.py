"""The models that come with the package and make images from noise: packing, figures, cards.

    python benchmarks/pretrained.py pack runs/digits --name digits --guidance 1.5 --data MNIST
    python benchmarks/pretrained.py pack runs/digits --name digits --guidance 1.5 --figures evaluated.json
    python benchmarks/pretrained.py card digits

`pack` writes a run to the package: the averaged weights in half precision, with the guidance scale that sampling takes
by default, a picture and a card. The figures are measured with the packed weights (`--data`, minutes on two cores), or
are those that `cunet evaluate generate --json` printed for the run (`--figures`). Rows go to results/pretrained.csv.
"""

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pictograms import attribution
from rows import read, records, replace_rows

from continuous_unet.evaluation.options import EvaluateGenerateOptions
from continuous_unet.evaluation.quality.run import evaluate_generation
from continuous_unet.models.fingerprint import fingerprint
from continuous_unet.tasks.generate.options import SampleOptions
from continuous_unet.tasks.generate.run import sample_images
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import TrainConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PRETRAINED = ROOT / "src" / "continuous_unet" / "pretrained"
KEPT = ("config.yaml", "run.json", "metrics.jsonl", "loss.png")
ROWS = "pretrained.csv"
LICENSE = "apache-2.0"
"""The licence of the packaged weights, which is that of the project."""
TERMS = {
    "mnist": "70,000 handwritten digits of Y. LeCun, C. Cortes and C. Burges; CC BY-SA 3.0",
    "pictograms": "emoji of five sets, drawn by `benchmarks/pictograms.py`; Apache-2.0, MIT and CC BY 4.0, see below",
}
"""The data, by the name of its folder in lower case, and the licence that it is under."""
CREDITS = {"pictograms": attribution()}
"""Whom the licences of the data ask to be named, by the name of its folder: Markdown."""
LIMITS = {
    "pictograms": " These are a few thousand pictures, often of similar subjects, and training sees each many times. "
    "Some samples are therefore close to a picture of the data, and its terms hold for them too.",
}
"""What else a card says about the limits of a model, by the name of the folder of its data."""
COLUMNS = ("fid", "floor", "recall", "class_accuracy", "scheduler", "sampling_steps", "guidance", "num_images")
"""What is kept of the rows of `cunet evaluate generate`."""


@dataclass(frozen=True)
class Figure:
    """A figure of a model card."""

    name: str
    """What was measured, with its unit."""
    value: float
    where: str
    """The data, and the conditions that it holds under."""


def front_matter(name: str, purpose: str, data: list[str], figures: list[Figure]) -> str:
    """The head of a model card, as Hugging Face's tools and `cunet models` read it.

    Args:
        name: of the model.
        purpose: the name of its task at Hugging Face.
        data: the sets that it was trained on.
        figures: what it reaches.
    """
    results = [
        {
            "task": {"type": purpose},
            "dataset": {"name": figure.where, "type": figure.where.partition(",")[0].lower()},
            "metrics": [{"type": figure.name.partition(",")[0].lower(), "name": figure.name, "value": figure.value}],
        }
        for figure in figures
    ]
    head = {"license": LICENSE, "library_name": "diffusers", "pipeline_tag": purpose, "datasets": data}
    content = {**head, "model-index": [{"name": name, "results": results}]}
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n"


def save_model(pipeline: Any, target: Path) -> None:
    """A pipeline as the package keeps it: without the places of this machine, and readable by everyone."""
    shutil.rmtree(target, ignore_errors=True)
    pipeline.save_pretrained(target)
    for file in target.rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # where it lay on this machine
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in target.rglob("*.safetensors"):
        path.chmod(0o644)  # a temporary file became it, which only its owner may read


def size_of(folder: Path) -> int:
    """The bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def keep_records(run: Path, name: str) -> TrainConfig:
    """The records of a run in the results, without the places of the machine that it ran on; its configuration."""
    target = RESULTS / name
    target.mkdir(parents=True, exist_ok=True)
    for kept in KEPT:
        if (run / kept).is_file():
            shutil.copy(run / kept, target / kept)
    facts = json.loads((target / "run.json").read_text(encoding="utf-8"))
    facts["data"]["source"] = Path(facts["data"]["source"]).name
    facts["command"] = [Path(word).name if Path(word).is_absolute() else word for word in facts["command"]]
    (target / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    settings = TrainConfig.load(run / "config.yaml")
    places: dict[str, Any] = {"data": Path(settings.data.source).name, "output": f"runs/{name}"}
    if settings.model.start_from is not None:
        places["start_from"] = Path(settings.model.start_from).name
    settings = settings.replaced(**places)
    settings.save(target / "config.yaml")
    return settings


def pack(run: Path, name: str, guidance: float | None) -> None:
    """A run's model to the package, laid out as a run, whose settings say how images are brought to its size."""
    pipeline = load_pipeline(run)
    facts = pipeline.facts
    if guidance is not None:
        facts = replace(facts, conditions=replace(facts.conditions, guidance_scale=guidance))
    unet = pipeline.unet.half()
    if facts.sampler is not None and facts.sampler.weights is not None:
        # the searched times belong to the weights as they are loaded: rounded
        facts = replace(facts, sampler=replace(facts.sampler, weights=fingerprint(unet.float())))
        unet = unet.half()
    pipeline.facts = facts
    target = PRETRAINED / name
    shutil.rmtree(target, ignore_errors=True)
    save_model(pipeline, target / "model")
    keep_records(run, name).save(target / "config.yaml")
    classes = "all" if facts.conditions.classes else None
    number = 8 if classes else 64
    picture = SampleOptions(
        model=str(target), output=str(target / "samples.png"), num=number, classes=classes, device="cpu"
    )
    sample_images(picture)


def measure(name: str, data: Path, num: int) -> list[dict[str, Any]]:
    """Rows of a packed model, as `cunet evaluate generate` measures."""
    options = EvaluateGenerateOptions(data=str(data), model=[str(PRETRAINED / name)], num=num, device="cpu")
    sampler = load_pipeline(PRETRAINED / name).facts.sampler
    if sampler is not None and sampler.distilled:
        options.sampling_steps = list(sampler.numbers)
    else:
        options.sampling_steps = [50]
    result = evaluate_generation(options)
    print(result.to_text(), flush=True)
    if result.stopped_by is not None:
        raise SystemExit(result.exit_code)
    return figures_of(result.to_dict(), name, data.name, "float16")


def figures_of(result: dict[str, Any], name: str, data: str, weights: str) -> list[dict[str, Any]]:
    """Rows of this file from the result of `cunet evaluate generate`."""
    floor, classifier = result["floor"]["fid"], result.get("class_accuracy_of_real_images")
    common = {"features": result["extractor"], "classifier_accuracy": classifier, "weights": weights}
    return [
        {"model": name, "data": data, **{key: {**row, "floor": floor}.get(key) for key in COLUMNS}, **common}
        for row in result["rows"]
    ]


def one_of(numbers: list[int]) -> str:
    """Returns numbers as they are read aloud: 1, 2, 3 or 4."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


def card(name: str) -> None:
    """The model card, from what the run left and from the rows."""
    run = RESULTS / name
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    last = [record for record in records(run) if "loss" in record][-1]
    rows = [row for row in read(RESULTS / ROWS) if row["model"] == name]
    pipeline = load_pipeline(PRETRAINED / name)
    known, sampler, source = pipeline.facts.conditions, pipeline.facts.sampler, facts["data"]["source"]
    channels, height, width = pipeline.image_shape
    kind = {1: "grey ", 3: "colour "}.get(channels, "")
    students = sampler is not None and sampler.distilled
    steps = f" in {one_of(sampler.numbers)} evaluations" if students and sampler is not None else ""
    asked = " of the class that is asked for" if known.classes else ""
    example = f"cunet sample {name}" + (f" --class {known.classes[0]} {known.classes[-1]}" if known.classes else "")
    minutes = last["seconds"] / 60
    about = source.lower().removeprefix("data-")
    terms = TERMS.get(about, "see its own terms")
    credits = ["## Whose pictures it learned from", "", CREDITS[about]] if about in CREDITS else []
    command = " ".join(facts["command"])
    table = []
    figures = []
    # the row with the model's own guidance comes first, because `cunet models` shows the first figures
    rows.sort(key=lambda row: float(row["guidance"] or known.guidance_scale) != known.guidance_scale)
    for row in rows:
        guidance = f"{float(row['guidance'] or known.guidance_scale):g}"
        share = "–" if not row["class_accuracy"] else f"{float(row['class_accuracy']):.1%}"
        table.append(
            f"| {row['scheduler']}, {row['sampling_steps']} | {guidance} | {float(row['fid']):.2f} | "
            f"{float(row['floor']):.2f} | {float(row['recall']):.3f} | {share} |"
        )
        where = f"{row['data']}, {row['sampling_steps']} steps" + (f", guidance {guidance}" if known.classes else "")
        figures.append(Figure("FID", round(float(row["fid"]), 2), where))
        if row["class_accuracy"]:
            figures.append(Figure("class accuracy, %", round(100 * float(row["class_accuracy"]), 2), where))
    judged = next((row["classifier_accuracy"] for row in rows if row["classifier_accuracy"]), None)
    rounded = all(row["weights"] == "float16" for row in rows)
    lines = [
        front_matter(name, "unconditional-image-generation", [source], figures),
        f"# {name}",
        "",
        f"This model makes {kind}images of {width}x{height} pixels{asked}{steps}. It is a "
        f"`{type(pipeline.unet).__name__}` with {pipeline.unet.num_parameters():,} parameters.",
        "",
        "```bash",
        f"{example} --output images.png",
        "```",
        "",
        f"![Samples of {name}](samples.png)",
        "",
        "## How it was made",
        "",
        f"`{command}` trained it: {last['step']:,} training steps, {last['images_seen']:,} images, in "
        f"{minutes:.0f} minutes. The data is {source} ({terms}). The weights are the averages, in float16. The "
        f"settings are in `config.yaml`, and the records in `benchmarks/results/{name}`.",
        "",
        "## What it reaches",
        "",
        "`cunet evaluate generate` measured this table"
        + (". " if rounded else ", before the weights were rounded to float16. ")
        + f"It compares {int(rows[0]['num_images']):,} samples with as many images of {source}; the features are "
        f"{rows[0]['features']}. The floor is the FID of real images. Class accuracy is the share of samples that a "
        "classifier assigns to the class asked for"
        + (f"; it assigns {float(judged):.1%} of held-out real images right." if judged else "."),
        "",
        "| sampler, steps | guidance | FID | floor | recall | class accuracy |",
        "| --- | --- | --- | --- | --- | --- |",
        *table,
        "",
        *credits,
        "## Limits",
        "",
        f"The model knows nothing but {source}. It was trained for the size and the kind of these images."
        + LIMITS.get(about, ""),
        "",
    ]
    (PRETRAINED / name / "README.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("pack", "card"))
    parser.add_argument("run", type=Path, help="pack: the run; card: the name of a packed model")
    parser.add_argument("--name", help="pack: the name of the model in the package; that of the run if left out")
    parser.add_argument("--guidance", type=float, help="pack: guidance scale of sampling; as saved if left out")
    parser.add_argument("--data", type=Path, help="pack: real images to measure the packed model on")
    parser.add_argument("--num", type=int, default=5000, help="pack, with --data: number of samples")
    parser.add_argument("--figures", type=Path, help="pack: output of cunet evaluate generate --json for the run")
    arguments = parser.parse_args()
    name = arguments.name or arguments.run.name
    if arguments.part == "pack":
        if (arguments.data is None) == (arguments.figures is None):
            parser.error("give either --data or --figures")
        pack(arguments.run, name, arguments.guidance)
        if arguments.data is not None:
            rows = measure(name, arguments.data, arguments.num)
        else:
            result = json.loads(arguments.figures.read_text(encoding="utf-8"))
            source = TrainConfig.load(PRETRAINED / name / "config.yaml").data.source
            rows = figures_of(result, name, source, "float32")
        replace_rows(RESULTS / ROWS, rows, "model")
    card(name)
    print(f"{name}: {size_of(PRETRAINED / name) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
