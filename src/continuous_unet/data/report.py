"""Facts about the images of a data set, for people and for run.json, which also show if two sets are the same."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.images.names import describe_left_out


@dataclass(frozen=True)
class DeepImages:
    """How the values of the images of one high-depth grey type are read; see `decode.range_of_values`."""

    kind: str
    """`"16-bit grey"`, `"32-bit grey"` or `"float"`."""
    number: int
    """The number of images."""
    smallest: float
    largest: float
    """The smallest and largest value of all of them."""
    black: float
    white: float
    """The values that stand for black and for white; values outside are cut off."""

    def __str__(self) -> str:
        return (
            f"{self.number:,} {self.kind} {'image has' if self.number == 1 else 'images have'} values from "
            f"{self.smallest:g} to {self.largest:g}; {self.black:g} is taken as black and {self.white:g} as white "
            "(--value-range)"
        )


@dataclass(kw_only=True)
class ImageFacts:
    """The facts about the images of a source."""

    source: str
    kind: str
    num_images: int
    """The number of images that can be used; 0 for a stream, whose images are not counted."""
    smallest: tuple[int, int] | None
    """The smallest width and height found, in pixels; None if no image can be used."""
    largest: tuple[int, int] | None
    channels: int | None
    """1 if all images are grey and 3 otherwise; None if no image can be used."""
    class_names: list[str] | None = None
    why_no_classes: str = ""
    """Why folders that could be classes are not taken as such; empty otherwise."""
    deep: list[DeepImages] = field(default_factory=list)
    """How the values of high-depth images are read."""
    lost_depth: int = 0
    """The number of images with 16 bits per channel, of which 8 are read: those in colour or with transparency."""
    left_aside: dict[str, int] = field(default_factory=dict)
    """The number of image files of each kind that is not read, by the ending of their names."""

    def sizes(self) -> str:
        """Returns `8x8`, or `8x8 to 16x12` if the sizes (width, height) differ."""
        return " to ".join(dict.fromkeys(f"{size[0]}x{size[1]}" for size in (self.smallest, self.largest) if size))

    def remarks(self) -> list[str]:
        """Returns lines about classes, values and files that are not used as one may expect."""
        lines = [self.why_no_classes] if self.why_no_classes else []
        lines += [str(images) for images in self.deep]
        if self.lost_depth:
            lines.append(f"{self.lost_depth:,} with 16 bits per channel in colour or with transparency, read as 8 bits")
        if self.left_aside:
            lines.append(f"left aside: {describe_left_out(self.left_aside)} (not read)")
        return lines


@dataclass(frozen=True)
class CaptionFacts:
    """The facts about the captions of a data set."""

    distinct: int
    """The number of different captions."""
    example: str
    digest: str
    """A hash of all captions in the order of the images: a run cannot continue with others."""

    @classmethod
    def of(cls, captions: Sequence[str]) -> "CaptionFacts":
        digest = hashlib.blake2b("\n".join(captions).encode(), digest_size=16).hexdigest()
        return cls(len(set(captions)), captions[0][:200] if captions else "", digest)


@dataclass(kw_only=True)
class DatasetReport(ImageFacts):
    """The facts about a data set: what its source holds, what the images become, and which were left out."""

    image_size: int | tuple[int, int]
    """The side in pixels of what the images become, or (height, width) where those differ; `size` is always a pair."""
    channels: int
    """The channels of what the images become: 1 (grey), 3 (RGB) or 4 (RGBA)."""
    smallest: tuple[int, int]
    largest: tuple[int, int]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """The name of each image that cannot be used, and the reason."""
    captions: CaptionFacts | None = None

    @property
    def size(self) -> tuple[int, int]:
        """The height and width in pixels of what the images become."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def required_classes(self) -> tuple[str, ...]:
        """Returns the names of the classes, for a model that is to be trained with them.

        Raises:
            InputError: if the data has no classes.
        """
        if not self.class_names:
            what = "a model with classes (--class-conditional) learns from images with classes"
            raise InputError(f"{what}, and {self.source} has none; give other data, or train a model without classes")
        return tuple(self.class_names)

    def summary(self) -> str:
        """Returns a few lines to read before training."""
        colour = {1: "grey", 3: "RGB", 4: "RGBA"}[self.channels]
        height, width = self.size
        number = f"{self.num_images:,} images" if self.num_images else "images"
        lines = [f"{number} from {self.source} ({self.kind}), {self.sizes()} pixels, used as {width}x{height} {colour}"]
        if self.class_names:
            shown = ", ".join(self.class_names[:10]) + (", …" if len(self.class_names) > 10 else "")
            lines.append(f"{len(self.class_names)} classes: {shown}")
        if self.captions:
            lines.append(f"{self.captions.distinct:,} different captions, such as {self.captions.example!r}")
        lines += self.remarks()
        if self.left_out:
            lines.append(f"left out {len(self.left_out):,}:")
            lines += [f"  {name}: {reason}" for name, reason in self.left_out[:10]]
            if len(self.left_out) > 10:
                lines.append(f"  … and {len(self.left_out) - 10:,} more")
        return "\n".join(lines)

    def description(self) -> str:
        """Returns what a run was trained on, for its report."""
        height, width = self.size
        return f"{self.num_images:,} images of {width}x{height} pixels, {self.channels} channel(s)"

    def to_dict(self) -> Json:
        """Returns the facts for JSON, as reading them back gives them."""
        return json.loads(json.dumps(asdict(self)))

    def differences(self, before: Json, moved: bool = False) -> list[str]:
        """Returns what makes these images others than those that a run was started with; empty if they are the same.

        The order of the images follows from their number, so a run cannot continue with others.

        Args:
            before: `to_dict()` of when the run was started, perhaps by an earlier version.
            moved: whether the data has another place now, so that everything known of it must be the same.
        """
        now = self.to_dict()
        names = ["num_images", "image_size", "channels", "class_names"] + (["smallest", "largest"] if moved else [])
        changed = [f"{n} {before[n]!r} -> {now[n]!r}" for n in names if n in before and before[n] != now[n]]
        if self.captions is not None and before.get("captions") not in (None, now["captions"]):
            changed.append("the captions are not the same")
        ranges = {images["kind"]: (images["black"], images["white"]) for images in before.get("deep", [])}
        for images in self.deep:
            taken = images.black, images.white
            if ranges.get(images.kind, taken) != taken:
                changed.append(f"value range of {images.kind} images {ranges[images.kind]} -> {taken}")
        new = len(self.left_out) - len(before.get("left_out", []))
        if moved and new > 0:
            changed.append(f"{new} images are missing or unreadable, such as {self.left_out[-1][0]}")
        return changed
