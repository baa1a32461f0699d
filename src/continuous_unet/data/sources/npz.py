"""NumPy archives."""

from pathlib import Path

import numpy as np

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.data.sources.arrays import ArraySource


class NpzSource(ArraySource):
    """A NumPy archive with `images` (or `x_train`, `x_test`, `arr_0`) and perhaps `labels` (or `y_train`, `y_test`)."""

    kind = "npz"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source.lower().endswith(".npz") and Path(source).is_file()

    def open(self, source: str) -> None:
        split = self.reading.split
        try:
            with np.load(source, allow_pickle=False) as archive:
                keys = list(archive)
                image_key = next((k for k in ("images", f"x_{split}", "arr_0") if k in keys), None)
                if image_key is None:
                    raise InputError(f"{source} holds {', '.join(keys)}; expected an array named images or x_{split}")
                label_key = next((k for k in ("labels", f"y_{split}") if k in keys), None)
                images = archive[image_key]
                labels = None if label_key is None else archive[label_key].reshape(-1)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{source} cannot be read as a NumPy archive ({first_line(error)})") from error
        self.set_arrays(Path(source).name, images, labels)
