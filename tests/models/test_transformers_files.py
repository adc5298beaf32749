"""Folders that transformers saved: their classes and settings, what is read of them, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from everyframe.errors import InputError
from everyframe.models.checkpoint import load, load_segmenter
from everyframe.models.transformers_files import MINIMUM, label_space
from everyframe.models.transformers_model import TransformersModel

tf = pytest.importorskip("transformers", minversion=MINIMUM)

from tiny_transformers import SIDE, edit, picture  # noqa: E402

Saved = Callable[[str], Path]


# -- classes, pixels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["do_reduce_labels", "reduce_labels", "reduce_zero_label"])
def test_raw_ids_of_masks_that_count_from_1(copied: Saved, key: str) -> None:
    folder = copied("segformer")
    edit(folder / "preprocessor_config.json", **{"do_reduce_labels": False, key: True})
    space = load(folder).label_space
    assert space.names == ("road", "car (1)", "sky", "car (3)", "tree")
    assert space.raw_to_train == {0: 255, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 255: 255}


def test_raw_ids_are_the_classes_otherwise(saved: Saved) -> None:
    assert load(saved("upernet")).label_space.raw_to_train == {**{k: k for k in range(5)}, 255: 255}


def test_more_classes_than_a_label_map_holds() -> None:
    with pytest.raises(InputError, match="expected 1 to 255 class names, came 847"):
        label_space(tf.SegformerConfig(num_labels=847))


def test_settings_of_old_files(copied: Saved) -> None:
    """As the first SegFormers on the hub have them: another class name, one number as size, no scale."""
    folder = copied("segformer")
    old = {"image_processor_type": "SegformerFeatureExtractor", "size": SIDE, "image_mean": [0.5, 0.4, 0.3],
           "image_std": [0.2, 0.2, 0.2], "do_resize": True, "do_normalize": True, "reduce_labels": True,
           "resample": 0}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    model = load(folder)
    image = picture((2 * SIDE, 2 * SIDE))
    pixels = model.prepare(image[None])["pixel_values"]  # resample 0 is "nearest"
    want = (image[:, 1::2, 1::2] / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.2
    other = (image[:, ::2, ::2] / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.2
    assert torch.allclose(pixels[0], want, atol=1e-5) or torch.allclose(pixels[0], other, atol=1e-5)


def test_pictures_are_not_padded_to_those_of_others(copied: Saved) -> None:
    folder = copied("mask2former")
    plain = load(folder).prepare(picture((40, 60))[None])["pixel_values"]
    edit(folder / "preprocessor_config.json", pad_size={"height": 256, "width": 256})
    assert torch.equal(load(folder).prepare(picture((40, 60))[None])["pixel_values"], plain)


# -- files -------------------------------------------------------------------------------------------------------------


def test_fetches_these_files_alone(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append(allow_patterns)
        return str(saved("segformer"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert isinstance(load("someone/some-segformer@refs/pr/1"), TransformersModel)
    assert asked[0] == ["config.json"]
    assert "model.safetensors" in asked[1]
    assert not [name for names in asked for name in names if name.endswith((".bin", ".py", ".h5"))]


def as_pickle(folder: Path, content: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def test_pickles_only_where_asked_for(copied: Saved) -> None:
    folder, image = copied("segformer"), picture((40, 60))[None]
    model = load(folder)
    as_pickle(folder, model.network.state_dict())
    with pytest.raises(InputError, match=r"came pytorch_model\.bin, a pickle; everyframe\.load\(.*allow_pickle"):
        load(folder)
    with torch.no_grad():
        assert torch.equal(load(folder, allow_pickle=True).step(image)[0], model.step(image)[0])


class Malicious:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran-code"),)


def test_no_code_is_run(copied: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copied("segformer")
    (folder / "own.py").write_text("from pathlib import Path\nPath('ran-code').touch()\nclass Own: pass\n")
    edit(folder / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModelForSemanticSegmentation": "own.Own"})
    edit(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.Own"})
    assert isinstance(load(folder), TransformersModel)
    as_pickle(folder, {"weights": Malicious()})
    with pytest.raises(InputError, match="cannot load this segformer model"):
        load(folder, allow_pickle=True)
    assert not Path("ran-code").exists()


def test_parts_without_weights(copied: Saved, caplog: pytest.LogCaptureFixture) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied("segformer")
    weights = load_file(folder / "model.safetensors")
    backbone = {name: x for name, x in weights.items() if not name.startswith("decode_head.classifier")}
    save_file(backbone, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lack 2 parts of Segformer\w+: decode_head\.classifier\.bias, decode_head"):
        load(folder)
    load(folder, strict=False)
    assert "they are random" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, r"\(beit, dpt, eomt, .*\), came BertModel \(bert\)"),
        (
            {"architectures": ["SegformerForImageClassification"]},
            "expected SegformerForSemanticSegmentation, came Segf",
        ),
        ({"hidden_sizes": [8, 24]}, "cannot load this segformer model: .*"),
    ],
)
def test_other_models_are_refused(copied: Saved, changes: dict[str, Any], message: str) -> None:
    folder = copied("segformer")
    edit(folder / "config.json", **changes)
    with pytest.raises(InputError, match=message) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_missing_files_are_named(copied: Saved) -> None:
    folder = copied("segformer")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="preprocessor_config"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"expected weights in safetensors, found none; .* refs/pr/N"):
        load(folder)


def test_library_missing_or_old(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved("segformer")
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="4.57.6"))
    with pytest.raises(InputError, match=r"needs transformers 5\.4 or newer, came 4\.57\.6; pip install"):
        load(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        InputError, match=r"needs transformers 5\.4 or newer, which cannot be imported .*everyframe\[hub"
    ):
        load(folder)


def test_where_parts_of_a_model_are_needed(saved: Saved) -> None:
    with pytest.raises(InputError, match="expected a model that everyframe trained, came SegformerForSemantic"):
        load_segmenter(saved("segformer"))
