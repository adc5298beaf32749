"""`everyframe models`."""

from __future__ import annotations

import json

import pytest

from everyframe.cli.__main__ import main
from everyframe.models.cost import Cost
from everyframe.models.zoo import MODELS


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


def test_patterns_and_names_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--names", "ssltm-swin-*", "ocr-timm:resnet18"]) == 0
    names = capsys.readouterr().out.split()
    assert {"ssltm-swin-small", "ssltm-swin-large"} < set(names)
    assert names[-1] == "ocr-timm:resnet18"
    assert main(["models", "--names"]) == 0
    assert capsys.readouterr().out.split() == list(MODELS)


def test_default_is_what_has_a_recipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []

    def count(name: str, classes: int = 124, size: tuple[int, int] = (480, 853)) -> Cost:
        counted.append(name)
        return Cost(name, 1, 1, size, classes)

    monkeypatch.setattr("everyframe.models.cost.model_cost", count)
    assert main(["models", "--json"]) == 0
    listed = [model["name"] for model in json.loads(capsys.readouterr().out)]
    assert listed == counted == sorted(set(listed))
    systems = ("deeplab", "uper", "psp", "ocr", "segmenter", "etc-ocr", "netwarp-ocr", "tcb-ocr", "ssltm")
    assert {f"{system}-{backbone}" for system in systems for backbone in ("swin-small", "resnet101")} < set(listed)
    assert {"tcb-psp-swin-small", "tcb-ocr-memory-swin-small", "mask2former-beitv2-adapter-large"} < set(listed)


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
