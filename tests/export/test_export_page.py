"""The page on exporting: its program runs on a file that the command wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from everyframe.export.check import scenes
from everyframe.export.export import export
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model

pytest.importorskip("onnxruntime")
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_the_program_of_the_page_follows_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    model = create_model("tcb-ocr-memory-tiny", LabelSpace(("road", "car"))).eval()
    export(model, tmp_path / "model.onnx", size=(32, 48))
    monkeypatch.chdir(tmp_path)
    frames = list(scenes((32, 48), 1, 4))
    told: dict[str, object] = {"frames": [frame.numpy() for frame in frames]}
    exec(program, told)
    assert told["names"] == ["road", "car"]
    state = None
    with torch.no_grad():
        for frame in frames:
            logits, state = model.step(frame, state)
    torch.testing.assert_close(torch.from_numpy(told["logits"]), logits, rtol=1e-3, atol=1e-4)
