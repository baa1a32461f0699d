"""The library call behind `cunet data check`: look at images before training on them."""

from dataclasses import dataclass, field
from typing import Any

from continuous_unet.base.results import CallResult
from continuous_unet.base.signals import StopRequest
from continuous_unet.data.dataset import class_names_of
from continuous_unet.data.looking import Look, look_at, read_ranges, sizes_of
from continuous_unet.data.options import DataOptions, parse_value_range
from continuous_unet.data.report import DeepImages, between_sizes, describe_notes
from continuous_unet.data.sources import open_source


@dataclass
class DataCheck(CallResult):
    """What `check_data` found."""

    source: str
    kind: str
    num_images: int
    """The number of images that can be used."""
    smallest: tuple[int, int] | None
    """The smallest width and height found, in pixels; None if no image can be used."""
    largest: tuple[int, int] | None
    channels: int | None
    """1 if all images are grey and 3 otherwise; None if no image can be used."""
    class_names: list[str] | None
    unusable: list[tuple[str, str]]
    """The name of each image and folder that cannot be used, and the reason."""
    not_searched: list[tuple[str, str]]
    """The name of each folder that was left out on purpose, and the reason."""
    why_no_classes: str = ""
    """Why folders that could be classes are not taken as such; empty otherwise."""
    deep: list[DeepImages] = field(default_factory=list)
    """How the values of high-depth images are read."""
    lost_depth: int = 0
    """The number of images with 16 bits per channel, of which 8 are read."""
    unusual_range: str | None = None
    """Why training needs `value_range`, if it does."""
    left_aside: dict[str, int] = field(default_factory=dict)
    """The number of image files of each kind that is not read, by the ending of their names."""

    @property
    def exit_code(self) -> int:
        """0 if all images can be used as they are, and 1 otherwise."""
        return 1 if self.unusable or self.unusual_range else 0

    def to_dict(self) -> dict[str, Any]:
        named = {k: [{"name": n, "reason": r} for n, r in getattr(self, k)] for k in ("unusable", "not_searched")}
        return {**super().to_dict(), **named}

    def to_text(self) -> str:
        """Returns a line for each image that cannot be used, the notes, and a summary in the last line."""
        lines = [f"{name}: {reason}" for name, reason in (*self.unusable, *self.not_searched)]
        lines += describe_notes(self)
        if self.unusual_range is not None:
            lines.append(self.unusual_range)
        parts = [f"{self.source} ({self.kind}): {self.num_images:,} images can be used"]
        if self.smallest is not None and self.largest is not None:
            parts.append(f"{between_sizes(self.smallest, self.largest)} pixels")
            parts.append("grey" if self.channels == 1 else "colour")
        if self.class_names:
            parts.append(f"{len(self.class_names)} classes")
        lines.append(f"{', '.join(parts)}; {len(self.unusable):,} cannot")
        return "\n".join(lines)


def check_data(options: DataOptions, *, stop: StopRequest | None = None, progress: bool = True) -> DataCheck:
    """Decodes every image of a source, as training would, and reports which cannot be used and why.

    Args:
        options: what to look at.
        stop: ends the work when a signal has arrived. If None, a signal ends it at once.
        progress: show a bar on stderr.

    Raises:
        InputError: if there is nothing to look at.
        Stopped: if `stop` ends the work.
    """
    options.validate()
    chosen = parse_value_range(options.value_range)
    opened = open_source(options.data, options.split, value_range=chosen, max_pixels=options.max_pixels)
    looks = look_at(opened, progress, stop)
    bad = [(name, look) for name, look in zip(opened.names, looks, strict=True) if isinstance(look, str)]
    found = [look for look in looks if isinstance(look, Look)]
    if found and bad:
        opened.keep([i for i, look in enumerate(looks) if isinstance(look, Look)])
    smallest, largest = sizes_of(found) if found else (None, None)
    deep, unusual = (list(opened.deep), None) if opened.deep is not None else read_ranges(found, chosen)
    return DataCheck(
        source=options.data,
        kind=opened.kind,
        num_images=len(found),
        smallest=smallest,
        largest=largest,
        channels=(1 if all(look.grey for look in found) else 3) if found else None,
        class_names=class_names_of(opened),
        unusable=[*bad, *opened.unreadable_folders],
        not_searched=list(opened.not_searched),
        why_no_classes=opened.why_no_classes,
        deep=deep,
        lost_depth=sum(look.loses_depth for look in found),
        unusual_range=unusual,
        left_aside=dict(opened.left_aside),
    )
