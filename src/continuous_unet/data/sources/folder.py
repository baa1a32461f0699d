"""Folders of image files."""

import os
import stat
from pathlib import Path

from PIL import Image

from continuous_unet.data.sources.base import LARGEST_FILE_BYTES
from continuous_unet.data.sources.files import FileSource
from continuous_unet.images.decode import Unreadable, load_image


class FolderSource(FileSource):
    """A folder of images, searched through; first-level folders are classes."""

    kind = "folder"

    @classmethod
    def matches(cls, source: str) -> bool:
        return Path(source).is_dir() and not (Path(source) / "dataset_info.json").is_file()

    def open(self, source: str) -> None:
        self.root = Path(source)
        names: list[str] = []
        self.not_searched = not_searched = []
        self.unreadable_folders = unreadable_folders = []

        def unreadable(error: OSError) -> None:
            unreadable_folders.append((self._relative(error.filename), str(error.strerror)))

        # Links to folders are not followed: they may lead in circles. Links to files are.
        for folder, inner, files in os.walk(self.root, onerror=unreadable):
            relative = self._relative(folder)
            names += [file if relative == "." else f"{relative}/{file}" for file in files]
            links = [self._relative(os.path.join(folder, name)) for name in inner if Path(folder, name).is_symlink()]
            not_searched += [(name, "a link to a folder is not followed") for name in links]
        self.take_names(names, f"the folder {self.root}")

    def _relative(self, path: str) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def read_text(self, name: str) -> str:
        path = self.root / name
        if not path.is_file() or path.stat().st_size > LARGEST_FILE_BYTES:
            raise OSError(f"it is no file of at most {LARGEST_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8-sig")

    def load(self, index: int) -> Image.Image:
        path = self.root / self.names[index]
        try:
            found = path.stat()
        except (OSError, ValueError) as error:
            raise Unreadable(getattr(error, "strerror", None) or str(error)) from error
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("not a regular file")
        if found.st_size == 0:
            raise Unreadable("the file is empty")
        if not os.access(path, os.R_OK):
            raise Unreadable("no permission to read it")
        return load_image(path, self.reading.max_pixels)
