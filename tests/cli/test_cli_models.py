"""`everyframe models`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from everyframe.cli.__main__ import main
from everyframe.models.cost import Cost
from everyframe.models.zoo import MODELS
from everyframe.training.recipe import read_recipe
from everyframe.training.recipe_files import recipes


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


def test_default_is_what_recipes_train(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[dict[str, Any]] = []

    def count(
        name: str, classes: int = 124, size: tuple[int, int] = (480, 853), options: Mapping[str, Any] | None = None
    ) -> Cost:
        assert options is not None
        counted.append({"name": name, **options})
        return Cost(name, 1, 1, size, classes)

    monkeypatch.setattr("everyframe.models.cost.model_cost", count)
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    names = [model["name"] for model in listed]
    assert names == [model["name"] for model in counted] == sorted(names)
    systems = ("deeplab", "uper", "psp", "ocr", "segmenter", "etc-ocr", "netwarp-ocr", "tcb-ocr", "ssltm")
    assert {f"{system}-{backbone}" for system in systems for backbone in ("swin-small", "resnet101")} < set(names)
    assert {"tcb-psp-swin-small", "tcb-ocr-memory-swin-small", "mask2former-beitv2-adapter-large"} < set(names)
    trained = [{**read_recipe(name)["model"], "pretrained": None} for name in recipes()]
    assert all({**model, "pretrained": None} in trained for model in counted)
    assert all({**model, "pretrained": None} in [{**mine, "pretrained": None} for mine in counted] for model in trained)
    assert len({json.dumps(model) for model in counted}) == len(counted)  # recipes of one model share a line
    with_options = {model["recipe"]: options for model, options in zip(listed, counted, strict=True) if model["recipe"]}
    assert {"uper-resnet101", "deeplab-resnet101", "vspw2023-contrastive"} < set(with_options)
    assert all(len(options) > 1 for options in with_options.values())


def test_recipes_with_options_have_lines_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of parameters with 124 classes: by name alone, and with what the recipe says of the model."""
    monkeypatch.setattr("everyframe.models.cost.count_macs", lambda model, size: 0)  # which takes most of the time
    names = ["uper-resnet101", "deeplab-resnet101", "uper-internimage-xl", "mask2former-beitv2-adapter-large"]
    assert main(["models", "--json", *names, "ssltm-swin-small"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(model["name"], model["recipe"], round(model["params"] / 1e6, 1)) for model in listed] == [
        ("uper-resnet101", None, 56.4),
        ("uper-resnet101", "uper-resnet101", 83.2),
        ("deeplab-resnet101", None, 66.9),
        ("deeplab-resnet101", "deeplab-resnet101", 59.5),
        ("uper-internimage-xl", None, 341.0),
        ("uper-internimage-xl", "uper-internimage-xl", 367.7),
        ("mask2former-beitv2-adapter-large", None, 570.5),
        ("mask2former-beitv2-adapter-large", "mask2former-beitv2-adapter-large", 570.7),
        ("mask2former-beitv2-adapter-large", "vspw2023-contrastive", 567.3),
        ("mask2former-beitv2-adapter-large", "vspw2023-multi-dataset", 570.7),
        ("ssltm-swin-small", None, 59.3),
    ]
    assert main(["models", "uper-resnet101"]) == 0
    plain, recipe = capsys.readouterr().out.splitlines()[1:]
    assert plain.split()[:2] == ["uper-resnet101", "56.42"]
    assert recipe.split()[:2] == ["uper-resnet101", "83.20"]
    assert recipe.endswith("recipe uper-resnet101")


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
