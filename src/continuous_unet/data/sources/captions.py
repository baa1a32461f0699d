"""Captions of image files: from metadata files, from text files beside the images, or from the names of the images."""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import PurePosixPath

from continuous_unet.base.errors import InputError, first_line

METADATA = ("metadata.jsonl", "metadata.csv")
COLUMNS = ("text", "caption", "captions", "prompt")
"""Names of columns that hold captions unless another is chosen, in the order in which they are looked for."""
LONGEST = 10_000
"""Number of characters of a caption after which it is cut; no encoder reads so many."""
Row = Mapping[str, object]
Read = Callable[[str], str]
"""Returns the content of a text file; raises OSError or ValueError if it cannot be read."""


def clean(text: str) -> str:
    """Returns a caption without line breaks and double spaces."""
    return " ".join(text[:LONGEST].split())


def find_captions(
    mode: str, images: Collection[str], files: Collection[str], read: Read, column: str | None, where: str
) -> dict[str, str]:
    """Returns the captions of images, by name; images without one are left out.

    Args:
        mode: `"metadata"`, `"txt"`, `"filename"`, or `"auto"` for metadata files if there are any, else text files.
        images: names of the images, with their folders.
        files: names of all files that are there.
        read: reads a text file.
        column: the column of metadata files that holds captions; the first of `COLUMNS` if None.
        where: the source in messages.

    Raises:
        InputError: for a file that cannot be read, a column that does not exist, or another mode.
    """
    if mode == "filename":
        return {name: caption for name in images if (caption := of_file_name(name))}
    if mode not in ("auto", "metadata", "txt"):
        raise InputError(f"--captions {mode} is for Hugging Face data sets; {where} has metadata, txt or filename")
    known = set(files)
    tables = sorted(name for name in known if PurePosixPath(name).name in METADATA)
    if tables and mode != "txt":
        found: dict[str, str] = {}
        for table in tables:
            content, named = _read(table, read, where), f"{table} in {where}"
            lines = table.endswith(".jsonl")
            rows: Iterable[Row] = _rows_of_json(content, named) if lines else csv.DictReader(io.StringIO(content))
            found |= _of_table(rows, PurePosixPath(table).parent, column, named)
        return {name: found[name] for name in images if name in found}
    if mode == "metadata":
        raise InputError(f"{where} holds neither {' nor '.join(METADATA)}; choose another --captions, such as txt")
    beside = {name: PurePosixPath(name).with_suffix(".txt").as_posix() for name in images}
    texts = {name: clean(_read(text, read, where)) for name, text in beside.items() if text in known}
    return {name: caption for name, caption in texts.items() if caption}


def of_file_name(name: str) -> str:
    """Returns what the name of a file says: `a_red-square (2).png` and `a red square_0002.png` say "a red square"."""
    stem = re.sub(r"[\W_]+", " ", PurePosixPath(name).stem).strip()
    return re.sub(r"( \d+)+$", "", stem)


def _read(name: str, read: Read, where: str) -> str:
    try:
        return read(name)
    except (OSError, ValueError) as error:
        raise InputError(f"{name} in {where} cannot be read as text in UTF-8 ({first_line(error)})") from error


def _rows_of_json(content: str, table: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f'line {number} of {table} is no JSON object, such as {{"file_name": …, "text": …}}')
        if row:
            rows.append(row)
    return rows


def _of_table(rows: Iterable[Row], folder: PurePosixPath, column: str | None, table: str) -> dict[str, str]:
    """Returns the captions of a table, whose file names are relative to its folder."""
    found: dict[str, str] = {}
    for row in rows:
        name = row.get("file_name")
        if not isinstance(name, str):
            raise InputError(f"{table} has a row without file_name; expected the columns file_name and text")
        key = column or next((key for key in COLUMNS if key in row), None)
        if key is None or key not in row:
            raise InputError(
                f"{table} has no column {column or COLUMNS[0]!r}, only {', '.join(map(str, row))}; name the one that "
                "holds captions with --caption-column"
            )
        value = row[key]
        if isinstance(value, list) and value:  # several captions of one image
            value = value[0]
        if isinstance(value, str) and clean(value):
            found[(folder / name.replace("\\", "/")).as_posix()] = clean(value)
    return found
