"""Zip archives of image files."""

import os
import zipfile
from pathlib import Path, PurePosixPath

from PIL import Image

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.data.sources.base import LARGEST_FILE_BYTES
from continuous_unet.data.sources.files import FileSource
from continuous_unet.images.decode import Unreadable, load_image
from continuous_unet.images.names import is_image


class ZipSource(FileSource):
    """A zip of a folder of images, read without unpacking."""

    kind = "zip"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source.lower().endswith(".zip") and Path(source).is_file()

    def open(self, source: str) -> None:
        self.path = source
        self._open: tuple[int, zipfile.ZipFile] | None = None
        try:
            with zipfile.ZipFile(source) as archive:
                members = [info.filename for info in archive.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{source} cannot be read as a zip archive ({first_line(error)})") from error
        # Some programs of Windows write backslashes; other programs write absolute names.
        slash = "\\" if not any("/" in member for member in members) else "/"
        names = [member.replace(slash, "/").lstrip("/") for member in members]
        # A zip made from outside of the folder has the folder as its one top, which is no part of the names.
        tops = {name.split("/", 1)[0] if "/" in name else None for name in names if is_image(PurePosixPath(name))}
        top = f"{tops.pop()}/" if len(tops) == 1 and None not in tops else ""
        self._members = {name.removeprefix(top): member for name, member in zip(names, members, strict=True)}
        """The members as the archive calls them."""
        self.take_names(self._members, f"the archive {source}")

    def _archive(self) -> zipfile.ZipFile:
        # A forked process would share the position in the file with its parent, so each opens the archive anew.
        if self._open is None or self._open[0] != os.getpid():
            self._open = os.getpid(), zipfile.ZipFile(self.path)
        return self._open[1]

    def read_text(self, name: str) -> str:
        archive = self._archive()
        info = archive.getinfo(self._members[name])
        if info.file_size > LARGEST_FILE_BYTES:
            raise OSError(f"it has more than {LARGEST_FILE_BYTES} bytes")
        try:
            return archive.read(info).decode("utf-8-sig")
        except Exception as error:  # damaged members raise zlib, struct and other errors
            raise OSError(first_line(error)) from error

    def load(self, index: int) -> Image.Image:
        try:
            archive = self._archive()
            info = archive.getinfo(self._members[self.names[index]])
            if info.file_size > LARGEST_FILE_BYTES:
                raise Unreadable(f"{info.file_size} bytes when unpacked; at most {LARGEST_FILE_BYTES} are read")
            if info.file_size == 0:
                raise Unreadable("the file is empty")
            content = archive.read(info)
        except Unreadable:
            raise
        except KeyError as error:
            raise Unreadable("it is not in the archive") from error
        except Exception as error:  # damaged members raise zlib, struct and other errors
            raise Unreadable(f"{type(error).__name__}: {first_line(error)}") from error
        return load_image(content, self.reading.max_pixels)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}  # an open archive cannot go to another process
