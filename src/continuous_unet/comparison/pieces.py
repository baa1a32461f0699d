"""The pieces of a comparison: each is made once and kept as a JSON file, so that a stopped comparison continues."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from tqdm import tqdm

from continuous_unet.base.errors import InputError
from continuous_unet.base.files import explain_write_errors, replace_text
from continuous_unet.base.options import to_yaml
from continuous_unet.base.signals import Stopped, StopRequest, leave_on_signals
from continuous_unet.comparison.config import CompareConfig
from continuous_unet.comparison.results import StoppedEarly, from_json
from continuous_unet.comparison.sides import Side, read_side
from continuous_unet.comparison.workers import Task, run_in_processes

Kind = TypeVar("Kind")


@dataclass
class PieceStore:
    """The folder of a comparison."""

    folder: Path
    """`compare.yaml`, `sides/` and `pieces/` are kept in it."""
    stop: StopRequest
    """It is checked before each piece is made."""
    jobs: int
    """Number of pieces that are made at a time, where they do not depend on each other."""

    def claim(self, config: CompareConfig, sides: list[Side]) -> None:
        """Makes the folder, or checks that what it holds is this comparison.

        Raises:
            InputError: if it holds something else, or cannot be written.
        """
        path = self.folder / "compare.yaml"
        if path.is_file():
            changed = config.changed_since(CompareConfig.load(path))
            if changed:
                raise InputError(
                    f"{self.folder} holds a comparison with other settings ({'; '.join(changed)}); continue with the "
                    "old ones, or choose another --output"
                )
            for side in sides:
                old = self.folder / "sides" / f"{side.name}.yaml"
                if old.is_file() and read_side(old).model() != side.model():
                    raise InputError(
                        f"the side {side.name} of {self.folder} was another model; choose another --output"
                    )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(f"{self.folder} is not an empty folder and not a comparison; choose another --output")
        with explain_write_errors(self.folder):
            (self.folder / "sides").mkdir(parents=True, exist_ok=True)
            for side in sides:
                content = yaml.safe_dump({"label": side.label, **side.model()}, sort_keys=False)
                replace_text(self.folder / "sides" / f"{side.name}.yaml", content)
            replace_text(path, to_yaml(config))

    def path(self, name: str) -> Path:
        """Returns the file of a piece."""
        return self.folder / "pieces" / f"{name}.json"

    def once(
        self, name: str, kind: type[Kind], make: Callable[..., object], *arguments: object, **options: object
    ) -> Kind:
        """Returns a piece: read if its file exists, otherwise made by `make(*arguments, **options)` and written."""
        if not self.path(name).is_file():
            self.stop.check()
            tqdm.write(f"{name} …", file=sys.stderr)
            try:
                with leave_on_signals(self.stop):  # compilers take minutes; trainings save by themselves
                    result = make(*arguments, **options)
            except KeyboardInterrupt as interrupt:
                if self.stop.signal is None:
                    raise
                raise Stopped(self.stop.signal) from interrupt
            self.write(name, result)
        return self.read(name, kind)

    def all(self, kind: type[Kind], tasks: dict[str, Task]) -> list[Kind]:
        """Returns pieces that do not depend on each other, in the order of `tasks`, which are functions by name."""
        if self.jobs == 1:
            return [self.once(name, kind, *task) for name, task in tasks.items()]
        todo = {name: task for name, task in tasks.items() if not self.path(name).is_file()}
        if todo:
            run_in_processes(todo, self.jobs, self.stop, self.write)
        return [self.read(name, kind) for name in tasks]

    def read(self, name: str, kind: type[Kind]) -> Kind:
        """Returns a piece from its file."""
        return from_json(kind, json.loads(self.path(name).read_text(encoding="utf-8")))

    def write(self, name: str, result: object) -> None:
        """Writes a piece.

        Raises:
            Stopped: if a signal stopped the worker before it was finished.
        """
        if isinstance(result, StoppedEarly):
            raise Stopped(result.stopped_by)
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path(name), json.dumps(result, indent=1, default=asdict))
