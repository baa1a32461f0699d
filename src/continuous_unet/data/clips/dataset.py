"""Clips as training reads them: some frames in a row, from every clip and every place."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.results import Json, counted
from continuous_unet.data.clips.drawn import Frames
from continuous_unet.data.clips.reading import read_clips
from continuous_unet.data.loading import Item, TrainingData
from continuous_unet.data.options import parse_image_size
from continuous_unet.data.order import EpochSampler, hold_out
from continuous_unet.images.decode import fit_image
from continuous_unet.images.ranges import to_model_range


@dataclass(frozen=True)
class ClipsReport:
    """The facts about clips, for people and for run.json."""

    source: str
    num_images: int
    """The number of places that a clip to learn can be cut from."""
    clips: int
    shortest: int
    """The number of frames of the shortest clip."""
    longest: int
    frames: int
    """The number of frames that are learned at a time."""
    image_size: tuple[int, int]
    """Height and width of a frame in pixels."""
    channels: int
    digest: str
    """A hash of all frames: a run cannot continue with others."""
    class_names: list[str] | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """The number of frames, and their height and width."""
        return (self.frames, *self.image_size)

    def summary(self) -> str:
        """Returns a line to read before training."""
        frames = f"{self.shortest} to {self.longest}" if self.shortest < self.longest else f"{self.longest}"
        return f"{counted(self.clips, 'clip')} of {frames} frames from {self.source}, {self._used()}"

    def _used(self) -> str:
        height, width = self.image_size
        return f"used as {self.frames} frames of {width}x{height} pixels, {'grey' if self.channels == 1 else 'RGB'}"

    def description(self) -> str:
        """Returns what was trained on, for the report of a run."""
        return f"{self.clips:,} clips, {self._used()}"

    def to_dict(self) -> Json:
        """Returns the facts for JSON."""
        return {**asdict(self), "image_size": list(self.image_size)}

    def differences(self, before: Json, moved: bool = False) -> list[str]:
        """Returns what makes these clips others than those that a run was started with."""
        now = self.to_dict()
        names = ("clips", "num_images", "channels", "frames", "image_size")
        changed = [f"{n} {before[n]!r} -> {now[n]!r}" for n in names if n in before and before[n] != now[n]]
        if not changed and before.get("digest", self.digest) != self.digest:
            changed.append("the frames are not the same")
        return changed


@dataclass
class ClipData(TrainingData, Dataset):
    """Clips to learn, by number: `frames` frames in a row, from every place of every clip.

    Args:
        source: where the clips come from.
        clips: their frames, uint8 `(F, H, W, C)`, all of one size and of equally many channels.
        names: the name of each.
        frames: number of frames to learn at a time.
        random_flip: mirror half of them.
        seed: sets the order, and which are mirrored.
        chosen: the numbers of the clips to use; all if None.

    Raises:
        InputError: if a clip is too short.
    """

    resume_promise = "exact"

    source: str
    clips: list[Frames]
    names: list[str]
    frames: int
    random_flip: bool = False
    seed: int = 0
    chosen: Sequence[int] | None = None

    def __post_init__(self) -> None:
        lengths = [len(clip) for clip in self.clips]
        shortest = int(np.argmin(lengths))
        if lengths[shortest] < self.frames:
            raise InputError(
                f"{self.names[shortest]} of {self.source} has {lengths[shortest]} frame(s), and {self.frames} are "
                "learned at a time; leave it out, or take fewer with --frames"
            )
        numbers = range(len(lengths)) if self.chosen is None else self.chosen
        self.places = [(number, first) for number in numbers for first in range(lengths[number] - self.frames + 1)]
        kept = [lengths[number] for number in numbers]
        found = hashlib.blake2b(digest_size=16)
        for clip in self.clips:
            found.update(str(clip.shape).encode() + clip.tobytes())
        _, height, width, channels = self.clips[0].shape
        self.report = ClipsReport(  # type: ignore[assignment]  # which has what training reads of a report
            source=self.source,
            num_images=len(self.places),
            clips=len(kept),
            shortest=min(kept, default=0),
            longest=max(kept, default=0),
            frames=self.frames,
            image_size=(height, width),
            channels=channels,
            digest=found.hexdigest(),
        )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} clips")
        index %= len(self)
        number, first = self.places[index]
        clip = as_tensor(self.clips[number][first : first + self.frames])
        if self.random_flip and derive_seed("augment", self.seed, epoch, index) % 2:
            clip = clip.flip(-1)
        return {"image": clip, "index": index, "unreadable": False}

    def name_of(self, index: int) -> str:
        number, first = self.places[index]
        return f"{self.names[number]}, frame {first}"

    def _reader(self, start: int, order: EpochSampler) -> tuple[Dataset, EpochSampler]:
        return self, order

    def split(self, num_validation: int) -> "tuple[ClipData, ClipData | None]":
        """Holds whole clips out, chosen at random by the seed; they are not mirrored.

        Raises:
            InputError: if nothing would be left to train on.
        """
        if num_validation == 0:
            return self, None
        kept, held_out = (part.tolist() for part in hold_out(num_validation, len(self.clips), self.seed, "clips"))
        return replace(self, chosen=kept), replace(self, chosen=held_out, random_flip=False)


def as_tensor(frames: Frames) -> Tensor:
    """Returns frames `(F, H, W, C)`, uint8, as float32 `(C, F, H, W)` in [-1, 1]."""
    return to_model_range(torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float() / 255)


def open_clips(
    source: str,
    *,
    frames: int,
    image_size: int | str | None = None,
    channels: int | None = None,
    fit: str = "crop",
    random_flip: bool = False,
    seed: int = 0,
) -> ClipData:
    """Opens clips of one size.

    Args:
        source: what `read_clips` takes.
        frames: number of frames to learn at a time.
        image_size: height and width that frames get; their own if None, which must be the same for all clips.
        channels: 1 (grey) or 3 (RGB); grey where all clips are, if None.
        fit: how frames get that size, as in `fit_image`.
        random_flip: mirror half of the clips.
        seed: see `ClipData`.

    Raises:
        InputError: for clips that cannot be read, of different sizes or too short, and for other channels.
    """
    if channels not in (None, 1, 3):
        raise InputError(f"--channels {channels}: clips are grey (1) or RGB (3)")
    clips, names = read_clips(source)
    size = parse_image_size(image_size)
    sizes = {clip.shape[1:3]: name for clip, name in zip(clips, names, strict=True)}
    if size is None and len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise InputError(
            f"the clips of {source} are of different sizes, such as {one[1]}x{one[0]} ({first}) and "
            f"{other[1]}x{other[0]} ({second}) pixels; say which size to use (--image-size)"
        )
    channels = channels or max(clip.shape[3] for clip in clips)
    clips = [fitted(clip, size or clip.shape[1:3], channels, fit) for clip in clips]
    return ClipData(source, clips, names, frames, random_flip, seed)


def fitted(clip: Frames, size: tuple[int, ...], channels: int, fit: str = "crop") -> Frames:
    """Returns a clip of this height and width, and of 1 or 3 channels."""
    if clip.shape[1:] == (*size, channels):
        return clip
    frames = []
    for frame in clip:
        image = Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame)
        image = fit_image(image.convert("L" if channels == 1 else "RGB"), (size[0], size[1]), fit)
        frames.append(np.asarray(image).reshape(*size, channels))
    return np.stack(frames)
