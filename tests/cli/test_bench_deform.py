"""`everyframe bench deform` in small: the forms agree, and the ratios are those of the seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from everyframe.cli.__main__ import main
from everyframe.cli.bench_deform import scene
from everyframe.models.ops.deform_attn import ms_deform_attn
from everyframe.models.ops.deform_attn_forms import forms


def test_ratios_are_those_of_the_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "deform.json"
    small = ["--crop", "64", "96", "--heads", "2", "--channels", "4", "--points", "2", "--rounds", "1"]
    assert main(["bench", "deform", *small, "--device", "cpu", "--json", str(file)]) == 0
    numbers = json.loads(file.read_text())
    assert numbers["shapes"] == [[8, 12], [4, 6], [2, 3]]
    assert numbers["queries"] == 8 * 12 + 4 * 6 + 2 * 3
    seconds = numbers["seconds"]
    assert set(seconds) == {"plain", "transformers", "grid_sample"}
    for name in ("transformers", "grid_sample"):
        for part in ("forward", "both"):
            want = seconds["plain"][part] / seconds[name][part]
            assert numbers[f"ratio_plain_to_{name}_{part}"] == pytest.approx(want)
        assert numbers["difference"][name] < 1e-5
    assert "8x12, 4x6, 2x3, 126 queries, on cpu" in capsys.readouterr().out


def test_every_form_and_its_gradients_are_the_op() -> None:
    shapes = [(5, 7), (3, 2)]
    given = [x.requires_grad_() for x in scene(shapes, 2, 3, 4, 2)]
    want = ms_deform_attn(given[0], shapes, *given[1:])
    upstream = torch.randn_like(want)
    gradients = torch.autograd.grad(want, given, upstream)
    for name, form in forms(torch.device("cpu")).items():
        got = form(given[0], shapes, *given[1:])
        torch.testing.assert_close(got, want, msg=name)
        for a, b in zip(torch.autograd.grad(got, given, upstream), gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_sizes_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "deform", "--crop", "64", "64", "64"]) == 1
    assert "one or two sides of the crop" in capsys.readouterr().err
