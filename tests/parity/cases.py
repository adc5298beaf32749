"""Golden cases: what a reference implementation computed, as data. See `tests/golden/README.md`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(os.environ.get("EVERYFRAME_GOLDEN") or Path(__file__).parents[1] / "golden")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}
"""Type of an output -> error allowed, of the largest absolute value of the tensor; other types must be equal."""


class NotBuilt(Exception):
    """The module of a case does not exist yet: the case is skipped under its name."""


@dataclass(frozen=True)
class Case:
    """One reference run.

    Attributes:
        path: the file.
        config: constructor arguments, notes and provenance, as the file holds them.
        state: the reference's weights by its own keys.
        inputs: `in.*`.
        outputs: `out.*`.
    """

    path: Path
    config: Mapping[str, Any]
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @property
    def args(self) -> Mapping[str, Any]:
        """Constructor arguments and sizes."""
        return self.config["args"]

    @property
    def repository(self) -> str:
        """Where the reference stands, for example "open-mmlab/mmsegmentation 1.2.2 (...)"."""
        return self.config["reference"]["repo"]

    @property
    def reference(self) -> str:
        """Class of the reference, for example "PSPHead"."""
        return self.config["reference"]["class"]

    def features(self) -> list[Tensor]:
        """`in.feat.0`, `in.feat.1`, ... in order."""
        return [self.inputs[f"feat.{i}"] for i in range(sum(name.startswith("feat.") for name in self.inputs))]


Builder = Callable[[Case], dict[str, Tensor]]
"""Builds our module from `case.args`, loads `case.state` through a converter, runs it on `case.inputs`, and returns
what it computed under the names of `case.outputs`."""


def load(path: Path) -> Case:
    """Read one case."""
    groups: dict[str, dict[str, Tensor]] = {"state": {}, "in": {}, "out": {}}
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        for key in file.keys():  # noqa: SIM118 (not a dict)
            group, _, name = key.partition(".")
            groups[group][name] = file.get_tensor(key)
    return Case(path, config, groups["state"], groups["in"], groups["out"])


def holds_metrics(path: Path) -> bool:
    """Whether a case holds what the VSPW authors' scripts count, and no module."""
    with safe_open(path, "pt") as file:
        config = json.loads((file.metadata() or {}).get("config", "{}"))
    ours = config.get("reference", {}).get("repo", "").startswith("sssdddwww2/CVPR2021_VSPW_Implement")
    return ours and "expected" in config


def find(folder: Path = FOLDER) -> list[Path]:
    """Return the files of all cases of a folder."""
    return sorted(folder.glob("*.safetensors"))


def compare(got: Mapping[str, Tensor], case: Case) -> None:
    """Assert that every output is there and right."""
    missing = sorted(set(case.outputs) - set(got))
    assert not missing, f"{case.path.name}: not computed: {', '.join(missing)}"
    for name, want in case.outputs.items():
        have = got[name]
        assert have.shape == want.shape, f"{case.path.name} {name}: {list(have.shape)}, expected {list(want.shape)}"
        if want.dtype not in TOLERANCE:
            assert torch.equal(have, want), f"{case.path.name} {name}: {(have != want).sum()} entries differ"
            continue
        error, scale = (have - want).abs().max().item(), want.abs().max().item()
        assert error <= TOLERANCE[want.dtype] * scale, (
            f"{case.path.name} {name}: error {error:.2e} on a scale of {scale:.2e}"
        )
