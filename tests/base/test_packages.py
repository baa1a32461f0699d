"""Optional packages: a missing one is an error that says how to install it."""

import json
import sys

import pytest

from continuous_unet.base.errors import InputError
from continuous_unet.base.packages import import_extra


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    assert import_extra("json", "reading needs json", "base") is json
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(InputError, match=r"^reading needs json: pip install 'continuous-unet\[base\]' \(.*json.*\)$"):
        import_extra("json", "reading needs json", "base")
