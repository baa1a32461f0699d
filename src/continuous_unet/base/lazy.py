"""Names of a package that are loaded on first use, so that importing it does not wait for torch."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Returns the `__getattr__`, the `__dir__` and the `__all__` of a package.

    Args:
        package: its `__name__`.
        modules: the names by the module that defines them, relative to the package (`.options`) or absolute. A name may
            also be that of a module in a package.
    """
    where = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(where[name], package)
        return getattr(module, name) if hasattr(module, name) else import_module(f"{module.__name__}.{name}")

    public = list(where)
    return load, lambda: public, public
