from __future__ import annotations

import json
from pathlib import Path

import pytest

from everyframe.cli.bench import main


@pytest.mark.slow
def test_bench_writes_the_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--dense-cells", "450", "--cells", "900", "--channels", "16", "--rounds", "2", "--json", str(out)]
    assert main(["contrastive", *arguments]) == 0
    numbers = json.loads(out.read_text())
    assert numbers["memory_ratio_tiled_to_dense"] == pytest.approx(
        numbers["tiled"]["900"]["extra_mib"] / (numbers["dense"]["450"]["extra_mib"] * 4)
    )
    assert numbers["value_difference"] < 1e-5
    assert "memory, tiled to dense at 900 cells" in capsys.readouterr().out
