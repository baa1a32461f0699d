"""Flips bits in, cuts and removes every file of a checkpoint: all of it is found, and the older checkpoint is used."""

import shutil
from pathlib import Path

from lab import Lab, differences, fresh, resume_arguments, run, tiny, train_arguments

from continuous_unet.training.checkpoints import find_damage


def main(lab: Lab) -> None:
    fresh(lab.folder)
    reference, output = lab.folder / "reference", lab.folder / "run"
    assert run(train_arguments(tiny(reference, steps=12), lab.folder), lab.folder).code == 0
    # the last two checkpoints, as a kill before the end of the last step's work would leave them
    shutil.copytree(reference, output)
    (output / "config.yaml").write_text((output / "config.yaml").read_text().replace(str(reference), str(output)))
    newest = output / "checkpoints" / "step-00000012"
    for name in sorted(p.name for p in newest.iterdir()):
        path, whole = newest / name, (newest / name).read_bytes()
        bad = []
        flips = _flips(lab, len(whole))
        for position, bit in flips:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            if find_damage(newest) is None:
                bad.append(f"bit {bit} of byte {position} of {name} was flipped, and nobody saw it")
        cuts = [0, 1, len(whole) // 2, len(whole) - 1]
        for length in cuts:
            path.write_bytes(whole[:length])
            if find_damage(newest) is None:
                bad.append(f"{name} was cut to {length} bytes, and nobody saw it")
        path.unlink()
        if find_damage(newest) is None:
            bad.append(f"{name} was removed, and nobody saw it")
        path.write_bytes(whole)
        if find_damage(newest) is not None:
            bad.append(f"{name} is whole, and was called damaged")
        lab.row("flips", f"{name}: flipped bits, cuts, removal", len(flips) + len(cuts) + 1, bad, "all found")
        if not lab.short or name == "model.safetensors":
            bad = _resume(lab, output, path, reference)
            lab.row("flips", f"{name}: damaged, resumed from the one before, equal bit for bit", 1, bad)


def _flips(lab: Lab, size: int) -> list[tuple[int, int]]:
    """Returns every bit of a small file, or some bits of a large one, its first and last bytes among them."""
    if size <= 1000 and not lab.short:
        return [(position, bit) for position in range(size) for bit in range(8)]
    places = {0, 1, 7, 8, 9, size - 1} | {lab.rng.randrange(size) for _ in range(lab.number(300, 20))}
    return [(position, lab.rng.randrange(8)) for position in sorted(places) if position < size]


def _resume(lab: Lab, output: Path, path: Path, reference: Path) -> list[str]:
    content = bytearray(path.read_bytes())
    content[lab.rng.randrange(len(content))] ^= 1 << lab.rng.randrange(8)
    path.write_bytes(content)
    (output / "report.md").unlink()
    (output / "samples" / "step-00000012.png").unlink()
    child = run(resume_arguments(output), lab.folder)
    # a flip in the manifest shows as another file that does not match, or as no JSON
    named = "the checkpoint step-00000012 is damaged (" in child.errors
    named = named and (path.name in child.errors or path.name == "manifest.json")
    problems = [] if child.code == 0 and named else [f"exit code {child.code}: {child.errors[-800:]}"]
    return problems + differences(output, reference)
