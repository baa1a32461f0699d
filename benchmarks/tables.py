"""Writes the tables of README and docs from the rows in `benchmarks/results`: no figure is typed by hand.

python benchmarks/tables.py           # rewrite what stands between the markers `<!-- table NAME -->` and `<!-- end -->`
python benchmarks/tables.py --check   # exit 1 if a page is not up to date (a test runs this)

The tables of `docs/NAME.md` are in `pages/NAME.py`, each by its name in `TABLES` there; the one of the README is in
`pages/claims.py`.
"""

import re
import sys
from importlib import import_module
from pathlib import Path

from pages.table import Table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def all_tables() -> dict[str, Table]:
    """Returns the tables of all modules of `pages/` by name."""
    tables: dict[str, Table] = {}
    for path in sorted((Path(__file__).parent / "pages").glob("*.py")):
        own: dict[str, Table] = getattr(import_module(f"pages.{path.stem}"), "TABLES", {})
        twice = own.keys() & tables.keys()
        assert not twice, f"{path} has tables whose names others have: {twice}"
        tables |= own
    return tables


TABLES = all_tables()


def renewed(page: Path) -> str:
    return MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", page.read_text(encoding="utf-8"))


def main() -> int:
    stale = [page for page in PAGES if renewed(page) != page.read_text(encoding="utf-8")]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is not up to date: run python benchmarks/tables.py")
        return 1 if stale else 0
    for page in stale:
        page.write_text(renewed(page), encoding="utf-8")
        print(f"renewed {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
