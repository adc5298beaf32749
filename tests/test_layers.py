"""Who may import whom, and that `import everyframe` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "everyframe"
LAYERS = {
    "errors": 0, "files": 0, "claim": 0, "frames": 0, "labels": 0, "flow": 0, "stopping": 0,
    "io": 1, "metrics": 1, "losses": 1, "models": 1,
    "data": 2, "semi": 2, "inference": 2, "report": 2, "export": 2,
    "testing": 3, "training": 3, "predict": 3, "pairs": 3, "evaluate": 3, "ensemble": 3, "convert": 3, "reproduce": 3,
    "cli": 4, "__init__": 4,
}  # fmt: skip
LAYER_0_ORDER = ["errors", "files", "claim", "frames", "labels", "flow", "stopping"]
# `Segmenter.stream` is the one convenience that points up, inside a method.
UPWARD = {("models/segmenter.py", "predict")}
# Modules of layer 2 and 3 that join what training, evaluation and prediction made.
ONLY_IN = {
    "lightning": ("training/", "data/datamodule.py", "cli/train.py"),
    "timm": ("models/",),
    "transformers": ("models/",),
    "av": ("io/",),
    "onnxruntime": ("models/onnx_model.py",),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if node.module == "everyframe":
                names |= {f"everyframe.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    file = str(path.relative_to(PACKAGE))
    own = file.split("/")[0].removesuffix(".py")
    for name in imported(path):
        if not name.startswith("everyframe."):
            continue
        other = name.split(".")[1]
        if other == own or own == "__init__" or (file, other) in UPWARD:
            continue
        allowed = LAYERS[other] < LAYERS[own] or (
            LAYERS[own] == LAYERS[other] == 0 and LAYER_0_ORDER.index(other) < LAYER_0_ORDER.index(own)
        )
        # Layer 2 may read files (io) and numbers (metrics) below it, never a neighbour; 3 may use a neighbour of 3.
        if LAYERS[own] == LAYERS[other] == 3:
            pairs = {("evaluate", "pairs"), ("pairs", "predict"), ("testing", "training")}
            allowed = own in {"training", "reproduce"} or (own, other) in pairs
        assert allowed, f"{file} (layer {LAYERS[own]}) imports everyframe.{other} (layer {LAYERS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_stay_in_their_rooms(path: Path) -> None:
    file = str(path.relative_to(PACKAGE))
    roots = {name.split(".")[0] for name in imported(path)}
    for package, rooms in ONLY_IN.items():
        if package in roots:
            assert file.startswith(rooms), f"{file} imports {package}, which belongs to {rooms}"


def test_import_is_light() -> None:
    code = (
        "import sys, everyframe; heavy = {'lightning', 'timm', 'transformers', 'av', 'cv2'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_loads() -> None:
    import everyframe

    assert len(everyframe.__all__) <= 25
    for name in everyframe.__all__:
        assert getattr(everyframe, name) is not None


def test_functions_are_not_hidden_by_modules_of_their_name() -> None:
    code = (
        "import everyframe, everyframe.predict, everyframe.evaluate; "
        "assert callable(everyframe.predict) and callable(everyframe.evaluate); "
        "from everyframe.predict import Summary"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
