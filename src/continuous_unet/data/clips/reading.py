"""Reads clips: GIF and MP4 files, folders of frames, and NumPy archives."""

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.data.archives import open_archive
from continuous_unet.data.clips.drawn import DRAWN, Frames
from continuous_unet.data.options import BUILT_IN_CLIPS
from continuous_unet.data.volumes import is_nifti, read_volume
from continuous_unet.images.decode import Unreadable, load_image, open_image
from continuous_unet.images.films import ENDING, read_mp4
from continuous_unet.images.names import is_hidden, is_image

MOST_FRAMES = 4096
"""The largest number of frames of a clip that is read."""
FILMS = (".gif", ENDING)
"""Endings of files that hold a clip each."""
EXPECTED = (
    "a .gif, .mp4 or .nii, a folder of such files or of folders of frames, a .npz with clips, or "
    f"{' or '.join(BUILT_IN_CLIPS)}"
)
"""What clips can be read from."""


def read_clips(source: str) -> tuple[list[Frames], list[str]]:
    """Returns all clips of a source, uint8 `(F, H, W, C)`, grey or RGB, and their names.

    Raises:
        InputError: if there are none, or one cannot be read.
    """
    path = Path(source)
    if source in DRAWN:
        clips = DRAWN[source]()
        return clips, [f"{source}[{number}]" for number in range(len(clips))]
    if not path.exists():
        raise InputError(f"{source} does not exist; expected {EXPECTED}")
    if path.is_dir():
        found = _folder(path)
    elif path.suffix.lower() == ".npz":
        found = {f"{path.name}[{k}]": clip for k, clip in enumerate(_archive(path))}
    elif is_film(path):
        found = {path.name: read_film(path)}
    else:
        raise InputError(f"{source} is not a kind of clips that can be read; expected {EXPECTED}")
    if not found:
        raise InputError(f"{source} holds no clips; expected {EXPECTED}")
    return list(found.values()), list(found)


def is_film(path: Path) -> bool:
    """Returns whether this is the name of a file that holds one clip."""
    return path.suffix.lower() in FILMS or is_nifti(path)


def read_film(path: Path) -> Frames:
    """Returns the frames of a GIF or an MP4, or the slices of a volume; raises InputError if it cannot be read."""
    if is_nifti(path):
        return _slices(path)
    if path.suffix.lower() == ENDING:
        return _one_clip(read_mp4(path, MOST_FRAMES))
    try:
        with open_image(path) as opened:
            if getattr(opened, "n_frames", 1) > MOST_FRAMES:
                raise Unreadable(f"it has more than {MOST_FRAMES} frames")
            return _one_clip([frame.convert("RGB") for frame in ImageSequence.Iterator(opened)])
    except (Unreadable, OSError) as error:
        raise InputError(f"the clip {path} cannot be read: {first_line(error)}") from error


def _slices(path: Path) -> Frames:
    """Returns the slices of a volume along its depth, whose smallest value becomes black and the largest one white."""
    values = read_volume(path).values
    low, high = float(values.min()), float(values.max())
    if len(values) > MOST_FRAMES or low == high:
        what = f"{len(values)} slices; at most {MOST_FRAMES} are read" if low < high else f"no value but {low:g}"
        raise InputError(f"the volume {path} has {what}")
    return ((values - low) / (high - low) * 255).round().astype(np.uint8)[..., None]


def _folder(path: Path) -> dict[str, Frames]:
    entries = sorted((entry for entry in path.iterdir() if not is_hidden(Path(entry.name))), key=_natural)
    found = {entry.name: read_film(entry) for entry in entries if is_film(entry)}
    frames = [entry for entry in entries if is_image(Path(entry.name)) and entry.suffix.lower() != ".gif"]
    if frames:
        found[path.name] = _frames(frames)
    for folder in (entry for entry in entries if entry.is_dir()):
        inside = sorted((entry for entry in folder.iterdir() if is_image(Path(entry.name))), key=_natural)
        if inside:
            found[folder.name] = _frames(inside)
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts frame 2 before frame 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]


def _frames(files: list[Path]) -> Frames:
    if len(files) > MOST_FRAMES:
        raise InputError(f"{files[0].parent} has {len(files)} frames; at most {MOST_FRAMES} are read")
    images = []
    for file in files:
        try:
            images.append(load_image(file).convert("RGB"))
        except Unreadable as error:
            raise InputError(f"the frame {file} cannot be read: {error}") from error
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        shown = " and ".join(f"{width}x{height}" for width, height in sorted(sizes)[:2])
        raise InputError(
            f"the frames of {files[0].parent} are {shown} pixels; the frames of a clip must be of one size"
        )
    return _one_clip(images)


def _one_clip(images: list[Image.Image]) -> Frames:
    """Returns RGB images as a clip, which is grey if all of them are."""
    frames = np.stack([np.asarray(image) for image in images])
    return frames[..., :1] if (frames == frames[..., :1]).all() else frames


def _archive(path: Path) -> Frames:
    """Returns the clips of a NumPy archive, uint8 `(N, F, H, W, C)`."""
    with open_archive(path) as archive:
        keys = list(archive)
        key = next((k for k in ("clips", "arr_0") if k in keys), None)
        if key is None:
            raise InputError(f"{path} holds {', '.join(keys) or 'nothing'}; expected an array named clips")
        clips = archive[key]
    clips = clips[..., None] if clips.ndim == 4 else clips
    if clips.ndim != 5 or clips.shape[-1] not in (1, 3) or 0 in clips.shape:
        raise InputError(
            f"{path} has clips of shape {clips.shape}; expected (N, F, H, W) or (N, F, H, W, C), with 1 or 3 channels"
        )
    if clips.dtype == np.uint8:
        return clips
    if not np.issubdtype(clips.dtype, np.floating):
        raise InputError(f"{path} has clips of type {clips.dtype}; expected uint8, or float in [0, 1]")
    low, high = float(clips.min()), float(clips.max())
    if not (low >= 0 and high <= 1):
        raise InputError(f"{path}: values of clips lie in [{low:g}, {high:g}]; expected float in [0, 1], or uint8")
    return (clips * 255).round().astype(np.uint8)
