"""NumPy archives."""

from pathlib import Path

from continuous_unet.base.errors import InputError
from continuous_unet.data.archives import open_archive
from continuous_unet.data.sources.arrays import ArraySource


class NpzSource(ArraySource):
    """A NumPy archive with `images` (or `x_train`, `x_test`, `arr_0`) and perhaps `labels` (or `y_train`, `y_test`)."""

    kind = "npz"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source.lower().endswith(".npz") and Path(source).is_file()

    def open(self, source: str) -> None:
        split = self.reading.split
        with open_archive(source) as archive:
            keys = list(archive)
            image_key = next((k for k in ("images", f"x_{split}", "arr_0") if k in keys), None)
            if image_key is None:
                found = ", ".join(keys) or "nothing"
                raise InputError(f"{source} holds {found}; expected an array named images or x_{split}")
            label_key = next((k for k in ("labels", f"y_{split}") if k in keys), None)
            images = archive[image_key]
            labels = None if label_key is None else archive[label_key].reshape(-1)
        self.set_arrays(Path(source).name, images, labels)
