"""`everyframe --import FILE.py`: own heads, temporal modules, losses and layouts in verbs; words where they lack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from everyframe.cli.__main__ import main
from everyframe.cli.own_parts import VARIABLE, take_imports
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError

PARTS = """
import torch
from torch import nn
from everyframe.data.layouts import LAYOUTS, SPLITS
from everyframe.models.heads.base import Head
from everyframe.models.temporal.base import TemporalModule
from everyframe.models.zoo import HEADS, TEMPORAL
from everyframe.training.objective import TERMS

class Linear(Head):
    def __init__(self, channels, strides, num_classes):
        super().__init__()
        self.num_classes, self.stride, self.channels = num_classes, strides[0], channels[0]
        self.classifier = nn.Conv2d(channels[0], num_classes, 1)
    def embed(self, maps):
        return {"pixels": maps[0], **self.embed_auxiliary(maps)}
    def predict(self, embedding):
        return {"logits": self.classifier(embedding["pixels"])}

class MovingAverage(TemporalModule):
    adjacent = (-1,)
    def __init__(self, head, channels):
        super().__init__()
    def forward(self, query, memory, head):
        pixels = query.embedding["pixels"]
        if memory is not None and memory.shape == pixels.shape:
            pixels = 0.5 * pixels + 0.5 * memory
        return {**query.embedding, "pixels": pixels}, pixels

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, outcome):
        return (self.scale * outcome.logits).square().mean()

HEADS["linear"] = Linear
TEMPORAL["average"] = MovingAverage
TERMS["small"] = Scaled
LAYOUTS["streets"], SPLITS["streets"] = LAYOUTS["folder"], SPLITS["folder"]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("own")
    (home / "parts.py").write_text(PARTS)
    write(SyntheticVideos(2, frames=4, size=(32, 48)), home / "data", "frames", "train")
    return home


def run(home: Path, *words: str, own: bool = True) -> subprocess.CompletedProcess[str]:
    front = ["--import", "parts.py"] if own else []
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    command = [sys.executable, "-m", "everyframe.cli", *front, *words]
    return subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=240, check=False
    )  # fmt: skip


def test_own_parts_train_in_processes_of_their_own_and_are_named_where_they_lack(home: Path) -> None:
    (home / "own.yaml").write_text(
        """
model: linear-average-tiny
steps: 2
data: {data: "streets:data", train_split: all, val_split: null, budget: 1, crop: 32, batch_size: 2, workers: 0}
objective: {terms: {small: 0.5}}
trainer: {accelerator: cpu}
"""
    )
    loop = run(home, "self-train", "own.yaml", "--out", "loop", "--rounds", "1", "--threshold", "0")
    assert loop.returncode == 0, loop.stderr
    student = home / "loop" / "model"
    assert (student / "model.safetensors").is_file()
    (log,) = (home / "loop").glob("*1*/**/train.csv")
    assert "small" in log.read_text().splitlines()[0]

    measure = ("evaluate", "--model", "loop/model", "--data", "folder:data", "--split", "all")
    lacking = run(home, *measure, own=False)
    assert lacking.returncode == 1
    assert "loop/model/config.json: no model 'linear-average-tiny'" in lacking.stderr
    assert "everyframe --import FILE.py" in lacking.stderr


def test_what_cannot_be_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for words, said in (
        (["--import"], "expected a file or module, came nothing"),
        (["--import", "nowhere.py", "models"], "found no "),
        (["--import=no_such_module", "models"], "found no 'no_such_module'"),
    ):
        assert main(words) == 1
        assert said in capsys.readouterr().err
    (tmp_path / "json.py").write_text("")
    with pytest.raises(InputError, match=r"whose name is no module's, came json\.py"):
        take_imports(["--import", str(tmp_path / "json.py"), "models"])
    assert VARIABLE not in os.environ
    assert take_imports(["models", "--import", "x.py"]) == ["models", "--import", "x.py"], "in front of the verb alone"
