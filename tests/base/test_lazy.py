"""Names that packages load on first use."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

LAZY = [f"continuous_unet{name}" for name in ("", ".comparison", ".data", ".deploy", ".evaluation", ".training")]


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_and_python_see_the_same_names(package):
    module = import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = [alias.asname for statement in block.body for alias in statement.names]
    assert sorted(declared) == sorted(set(module.__all__) - {"__version__"})
    assert sorted(dir(module)) == sorted(module.__all__)
    for statement in block.body:
        for alias in statement.names:
            assert alias.asname == alias.name
            origin = import_module(statement.module)
            expected = getattr(origin, alias.name, None) or import_module(f"{statement.module}.{alias.name}")
            assert getattr(module, alias.name) is expected


@pytest.mark.parametrize("package", LAZY)
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        import_module(package).nothing  # noqa: B018


def test_the_runtime_is_found_by_its_documented_name_without_torch():
    code = "import sys; from continuous_unet.deploy import runtime; print(runtime.__name__, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["continuous_unet.deploy.standalone.runtime", "False"]
