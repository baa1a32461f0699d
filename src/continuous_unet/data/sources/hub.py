"""Hugging Face data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.packages import import_extra
from continuous_unet.data.sources.base import Source
from continuous_unet.data.sources.captions import COLUMNS, clean
from continuous_unet.images.decode import Unreadable, load_image


class HubSource(Source):
    """A Hugging Face data set: `hf:NAME` from the hub, or `hf:PATH` saved by `save_to_disk` or holding its files."""

    kind = "hub"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source.startswith("hf:") or (Path(source) / "dataset_info.json").is_file()

    def open(self, source: str) -> None:
        datasets = import_extra("datasets", f"{source!r} needs the datasets library", "hub")
        name, split = source.removeprefix("hf:"), self.reading.split
        path = Path(name)
        try:
            if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
                data = datasets.load_from_disk(name)
                data = data[split] if isinstance(data, datasets.DatasetDict) else data
            else:
                data = datasets.load_dataset(name, split=split)
        except Exception as error:
            reason = first_line(error)
            raise InputError(f"the data set {name!r} (split {split!r}) cannot be opened: {reason}") from error
        images = [k for k, f in data.features.items() if isinstance(f, datasets.Image)]
        if not images:
            raise InputError(f"the data set {name!r} has no image column, only {', '.join(data.features)}")
        self.column = images[0]
        classes = [k for k, f in data.features.items() if isinstance(f, datasets.ClassLabel)]
        if classes:
            self._set_labels(name, classes[0], list(data[classes[0]]), list(data.features[classes[0]].names))
        if self.reading.captions is not None:
            self._set_captions(name, data, [k for k, f in data.features.items() if getattr(f, "dtype", "") == "string"])
        # Bytes rather than decoded images, so that one decoder serves all sources
        self.data = data.cast_column(self.column, datasets.Image(decode=False))
        self.names = [f"{name}[{i}]" for i in range(len(data))]

    def _set_labels(self, name: str, column: str, labels: list[int | None], class_names: list[str]) -> None:
        missing = [i for i, label in enumerate(labels) if label is None or label < 0]
        if len(missing) == len(labels):
            self.why_no_classes = f"all labels of its column {column!r} are missing (None or below 0)"
        elif missing:
            raise InputError(
                f"{len(missing)} of {len(labels)} labels of the data set {name!r}, column {column!r}, are missing "
                f"(None or below 0), such as that of image {missing[0]}; remove these images, or the column"
            )
        else:
            self.class_names, self.labels = class_names, [int(label) for label in labels if label is not None]

    def _set_captions(self, name: str, data: Any, texts: list[str]) -> None:
        mode, chosen = self.reading.captions, self.reading.caption_column
        if mode not in ("auto", "column"):
            raise InputError(f"--captions {mode} is for folders and archives; {name!r} has columns: leave it out")
        if chosen is not None and chosen not in data.features:
            raise InputError(f"the data set {name!r} has no column {chosen!r}, only {', '.join(data.features)}")
        column = chosen or next((c for c in COLUMNS if c in data.features), texts[0] if len(texts) == 1 else None)
        if column is None:
            return
        values = [value[0] if isinstance(value, list) and value else value for value in data[column]]
        captions = [clean(value) if isinstance(value, str) else "" for value in values]
        missing = [i for i, caption in enumerate(captions) if not caption]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(captions)} captions of the data set {name!r}, column {column!r}, are missing "
                f"or no text, such as that of image {missing[0]}; remove these images, or name another --caption-column"
            )
        self.captions = captions

    def load(self, index: int) -> Image.Image:
        entry = self.data[index][self.column]
        content = None if entry is None else entry["path"] if entry["bytes"] is None else entry["bytes"]
        if content is None:
            raise Unreadable("the image is missing (None)")
        return load_image(content, self.reading.max_pixels)

    def keep(self, indices: Sequence[int]) -> None:
        super().keep(indices)
        self.data = self.data.select(indices)
