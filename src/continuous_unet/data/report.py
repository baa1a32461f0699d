"""What is known of the images of a data set, for people, for run.json, and to judge whether two sets are the same."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DatasetReport:
    """What was found, what it becomes, and what was left out."""

    source: str
    kind: str
    num_images: int
    """0 for a stream, whose images nobody has counted."""
    image_size: int
    channels: int
    smallest: tuple[int, int]
    """Smallest width and height found, pixels."""
    largest: tuple[int, int]
    class_names: list[str] | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason of each image that cannot be used."""

    def summary(self) -> str:
        """A few lines to read before training."""
        colour = {1: "grey", 3: "RGB", 4: "RGBA"}[self.channels]
        sizes = f"{self.smallest[0]}x{self.smallest[1]}"
        if self.largest != self.smallest:
            sizes += f" to {self.largest[0]}x{self.largest[1]}"
        number = f"{self.num_images:,} images" if self.num_images else "images"
        lines = [
            f"{number} from {self.source} ({self.kind}), {sizes} pixels, "
            f"used as {self.image_size}x{self.image_size} {colour}"
        ]
        if self.class_names:
            shown = ", ".join(self.class_names[:10]) + (", …" if len(self.class_names) > 10 else "")
            lines.append(f"{len(self.class_names)} classes: {shown}")
        if self.left_out:
            lines.append(f"left out {len(self.left_out):,}:")
            lines += [f"  {name}: {reason}" for name, reason in self.left_out[:10]]
            if len(self.left_out) > 10:
                lines.append(f"  … and {len(self.left_out) - 10:,} more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.__dict__)
