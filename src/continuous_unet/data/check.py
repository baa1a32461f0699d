"""The library call behind `cunet data check`: look at images before training on them."""

from dataclasses import dataclass

from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import StopRequest
from continuous_unet.data.looking import describe, look_at
from continuous_unet.data.options import DataOptions, parse_value_range
from continuous_unet.data.report import ImageFacts
from continuous_unet.data.sources import Reading, open_source


@dataclass(kw_only=True)
class DataCheck(CallResult, ImageFacts):
    """The result of `check_data`."""

    unusable: list[tuple[str, str]]
    """The name of each image and folder that cannot be used, and the reason."""
    not_searched: list[tuple[str, str]]
    """The name of each folder that was left out on purpose, and the reason."""
    unusual_range: str | None
    """Why training needs `value_range`, if it does."""

    @property
    def exit_code(self) -> int:
        """0 if all images can be used as they are, and 1 otherwise."""
        return 1 if self.unusable or self.unusual_range else 0

    def to_dict(self) -> Json:
        named = {k: [{"name": n, "reason": r} for n, r in getattr(self, k)] for k in ("unusable", "not_searched")}
        return {**super().to_dict(), **named}

    def to_text(self) -> str:
        """Returns a line for each image that cannot be used, the remarks, and a summary in the last line."""
        lines = [f"{name}: {reason}" for name, reason in (*self.unusable, *self.not_searched)] + self.remarks()
        if self.unusual_range is not None:
            lines.append(self.unusual_range)
        parts = [f"{self.source} ({self.kind}): {self.num_images:,} images can be used"]
        if self.num_images:
            parts += [f"{self.sizes()} pixels", "grey" if self.channels == 1 else "colour"]
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
        InputError: if the source cannot be opened, or holds no image.
        Stopped: if `stop` ends the work.
    """
    options.validate()
    chosen = parse_value_range(options.value_range)
    opened = open_source(options.data, Reading(options.split, chosen, options.max_pixels))
    found, bad = look_at(opened, progress, stop)
    if found and bad:
        opened.keep(list(found))
    facts, problem = describe(options.data, opened, found.values(), chosen)
    return DataCheck(
        **vars(facts),
        unusable=[*bad, *opened.unreadable_folders],
        not_searched=list(opened.not_searched),
        unusual_range=problem,
    )
