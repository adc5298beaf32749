"""`everyframe models`."""

from __future__ import annotations

import json

import pytest

from everyframe.cli.__main__ import main


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json", "psp-swin-small", "ocr-swin-small"]) == 0
    psp, ocr = json.loads(capsys.readouterr().out)
    assert psp["name"] == "psp-swin-small"
    assert (psp["params"], psp["params_m"]) == (64_141_314, 64.141)
    assert (ocr["params"], ocr["params_m"]) == (55_460_994, 55.461)
    assert ocr["size"] == [480, 853]
    assert ocr["classes"] == 124
    assert ocr["gmacs"] > 77


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "fcn-gru-tiny", "--classes", "11", "--size", "96x128"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert "11 classes, 96x128 frame" in head
    assert row.startswith("fcn-gru-tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ocr-swin-smal"], "close ones are ocr-swin-small"),
        (["fcn-tiny", "--size", "480"], "expected HxW"),
        (["fcn-tiny", "--classes", "0"], "expected 1 to 255"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["models", *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
