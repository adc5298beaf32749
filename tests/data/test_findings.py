from __future__ import annotations

import pytest

from everyframe.data.findings import DataWarning, Finding, collecting, found
from everyframe.errors import InputError


def test_an_error_raises_and_a_warning_warns() -> None:
    with pytest.raises(InputError, match=r"^a\.png: is odd \(and 2 more\); remove it$"):
        found("error", "is odd", "remove it", ["a.png", "b.png", "c.png"])
    with pytest.warns(DataWarning, match="^is odd; remove it$"):
        found("warning", "is odd", "remove it")


def test_collecting_notes_both_and_ends() -> None:
    with collecting() as outer:
        found("error", "one", "fix")
        with collecting() as inner:
            found("warning", "two", "fix", ["x"])
        found("error", "three", "fix")
    assert [finding.what for finding in outer] == ["one", "three"]
    assert inner == [Finding("warning", "two", "fix", ("x",))]
    with pytest.raises(InputError):
        found("error", "four", "fix")
