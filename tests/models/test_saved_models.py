"""Saved models: what is written is what is read, here and on the hub; everything else is refused in one clear line."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import everyframe
from everyframe.errors import DiskFullError, InputError
from everyframe.flow import GivenFlow
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import load, push_to_hub, save
from everyframe.models.convert.source import read_source
from everyframe.models.segmenter import Segmenter
from everyframe.models.state import save_tensors
from everyframe.models.zoo import create_model

SPACE = LabelSpace(
    ("road", "car", "sky"), palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)), raw_to_train={0: 255, 7: 0, 9: 1, 4: 2}
)
FRAME = torch.randint(0, 256, (1, 3, 45, 38), dtype=torch.uint8)


@pytest.fixture
def model() -> Segmenter:
    small = {"width": 4, "stem_width": 4}
    model = create_model("fcn-gru-tiny", SPACE, backbone=small, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    return model.eval()


@pytest.fixture
def saved(model: Segmenter, tmp_path: Path) -> Path:
    model.save_pretrained(str(tmp_path / "model"))
    return tmp_path / "model"


def test_round_trip_is_exact(model: Segmenter, saved: Path) -> None:
    again = everyframe.load(saved)
    assert not again.training
    assert again.label_space == SPACE
    assert again.config["name"] == "fcn-gru-tiny"
    state = None
    want_state = None
    with torch.no_grad():
        for _ in range(2):
            got, state = again.step(FRAME, state)
            want, want_state = model.step(FRAME, want_state)
            assert torch.equal(got, want)


def test_folder_holds_config_and_weights_alone(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert config["class"] == "Segmenter"
    assert config["name"] == "fcn-gru-tiny"
    assert config["options"]["backbone"] == {"width": 4, "stem_width": 4}
    assert config["image"]["mean"] == pytest.approx([0.4, 0.5, 0.6])
    assert config["label_space"]["palette"] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert config["everyframe_version"]


def test_saving_twice_replaces(model: Segmenter, saved: Path) -> None:
    with torch.no_grad():
        model.head.classifier.bias.fill_(3.0)
    save(model, saved, metrics={"mIoU (gt-classes)": 0.5})
    again = load(saved)
    assert again.head.classifier.bias.tolist() == [3.0] * 3
    assert again.config["metrics"] == {"mIoU (gt-classes)": 0.5}


def test_weights_that_do_not_fit_are_listed_and_refused(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = load_file(saved / "model.safetensors")
    state["head.extra"] = state.pop("temporal.gamma")
    state["head.classifier.bias"] = torch.zeros(9)
    save_file(state, saved / "model.safetensors")
    with pytest.raises(InputError) as refused:
        load(saved)
    message = str(refused.value)
    for part in ("1 missing: temporal.gamma", "1 unexpected: head.extra", "head.classifier.bias [3] here, [9] there"):
        assert part in message
    with caplog.at_level(logging.WARNING):
        load(saved, strict=False)
    assert "temporal.gamma" in caplog.text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "found no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "file is damaged"),
        (lambda folder: (folder / "config.json").write_text('{"task": "segment"}'), "another program's"),
        (lambda folder: (folder / "config.json").write_text("[]"), "another program's"),
        (lambda folder: (folder / "model.safetensors").unlink(), "expected a file of weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 40), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot be read"),
    ],
    ids=[
        "no config",
        "damaged config",
        "another program",
        "no object",
        "no weights",
        "damaged weights",
        "empty weights",
    ],
)
def test_damaged_folders_are_refused(saved: Path, damage: Any, message: str) -> None:
    damage(saved)
    with pytest.raises(InputError, match=message):
        load(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "fcn-nothing", "no model 'fcn-nothing'"),
        ("options", {"future": 1}, "cannot build this model"),
        ("label_space", {}, "cannot build this model"),
        ("label_space", None, "are missing|cannot build"),
    ],
)
def test_configs_that_cannot_be_built(saved: Path, key: str, value: object, message: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    config[key] = value
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load(saved)


def test_a_model_put_together_by_hand_cannot_be_saved(model: Segmenter, tmp_path: Path) -> None:
    model.config = {}
    with pytest.raises(InputError, match="made by create_model"):
        save(model, tmp_path)


def test_an_object_as_an_option_cannot_be_saved(tmp_path: Path) -> None:
    model = create_model("netwarp-fcn-tiny", SPACE, temporal={"flow": GivenFlow(())})
    with pytest.raises(InputError, match=r"options that JSON can hold, .*GivenFlow.*; give parts by name"):
        save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_unwritable_folder(model: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"expected to write here, cannot .*a file lies where a folder is needed"):
        save(model, tmp_path / "file" / "model")


def runs(tmp_path: Path, saved: Path, *names: str) -> Path:
    """Folders of runs, with a model and checkpoints each."""
    for name in names:
        shutil.copytree(saved, tmp_path / "runs" / name / "model")
        (tmp_path / "runs" / name / "config.yaml").write_text("")
        (tmp_path / "runs" / name / "checkpoints").mkdir()
        (tmp_path / "runs" / name / "checkpoints" / "best.ckpt").write_bytes(b"what Lightning wrote")
    return tmp_path / "runs"


def test_a_checkpoint_names_its_run(tmp_path: Path, saved: Path) -> None:
    a = runs(tmp_path, saved, "a") / "a"
    for read in (load, read_source):
        with pytest.raises(InputError, match=f"came a checkpoint of everyframe.*; give its run: .*{a}"):
            read(a / "checkpoints" / "best.ckpt")
    assert load(a).label_space == SPACE  # what the message asks for works
    shutil.rmtree(a / "model")
    with pytest.raises(InputError, match=r"found no config.json"):
        load(a / "checkpoints" / "best.ckpt")


def test_a_folder_of_runs_names_them(tmp_path: Path, saved: Path) -> None:
    folder = runs(tmp_path, saved, "c", "a", "b")
    (folder / "notes").mkdir()
    with pytest.raises(InputError, match=f"{folder} holds runs: a, b, c; give one, such as {folder / 'a'}$"):
        load(folder)


def no_room(tensors: object, path: Path, metadata: object = None) -> None:
    """What safetensors raises on a full disk."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_full_disk(model: Segmenter, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors.torch, "save_file", no_room)
    with pytest.raises(DiskFullError, match=r"No space left on device.*; free the disk"):
        save(model, saved)
    assert load(saved).label_space == SPACE  # the earlier model is whole


def test_other_failures_of_safetensors_are_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):  # the library's own error, no imitation
        save_tensors(tmp_path / "none" / "a.safetensors", {"a": torch.zeros(1)})

    def odd(tensors: object, path: Path, metadata: object = None) -> None:
        raise SafetensorError("header too large")

    monkeypatch.setattr(safetensors.torch, "save_file", odd)
    with pytest.raises(OSError, match="header too large"):
        save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})


# -- the hub ----------------------------------------------------------------------------------------------------------


def test_no_such_folder_and_no_hub_id() -> None:
    with pytest.raises(InputError, match="found no such folder"):
        load("runs/of/last/week")


def test_hub_out_of_reach_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="hub cannot be reached") as refused:
        load("someone/some-model")
    assert "\n" not in str(refused.value)


def test_load_from_the_hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load("someone/some-model@v2").label_space == SPACE
    assert asked == {
        "repo_id": "someone/some-model", "revision": "v2", "allow_patterns": ["config.json", "model.safetensors"]
    }  # fmt: skip


def test_unknown_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo_id: str, **options: Any) -> str:
        response: Any = SimpleNamespace(headers={}, request=None)
        raise huggingface_hub.errors.RepositoryNotFoundError("404 Client Error.\nMore", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(InputError, match="neither such a folder here nor such a model on the hub"):
        load("someone/nothing")


def test_push_to_hub(model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def __init__(self, token: str | None = None) -> None:
            calls.append(("api", {"token": token}))

        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append(("create", {"repo_id": repo_id, **options}))

        def upload_folder(self, folder_path: str, **options: Any) -> str:
            shutil.copytree(folder_path, tmp_path / "hub")
            calls.append(("upload", options))
            return "https://hub/someone/new/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = model.push_to_hub("someone/new", metrics={"mIoU (gt-classes)": 0.4321}, private=True)
    assert address == "https://hub/someone/new/commit/1"
    assert [name for name, _ in calls] == ["api", "create", "upload"]
    assert calls[1][1] == {"repo_id": "someone/new", "private": True, "exist_ok": True}
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "| mIoU (gt-classes) | 0.4321 |" in card
    assert 'everyframe.load("someone/new")' in card
    assert "road, car, sky" in card
    assert load(tmp_path / "hub").label_space == SPACE


def test_push_without_network_is_one_clear_line(model: Segmenter) -> None:
    with pytest.raises(InputError, match="cannot upload to 'someone/new'"):
        push_to_hub(model, "someone/new")
