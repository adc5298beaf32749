"""Models of transformers against the library's own processors and post-processing, on tiny random weights."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import everyframe
from everyframe.cli.__main__ import main
from everyframe.errors import InputError
from everyframe.evaluate import evaluate
from everyframe.frames import Frame
from everyframe.inference.state_file import snapshot
from everyframe.inference.stream import Stream
from everyframe.io.label_png import read_raw
from everyframe.models.checkpoint import load, load_segmenter
from everyframe.models.heads.mask2former.head import semantic_scores
from everyframe.models.transformers_files import MINIMUM, label_space
from everyframe.models.transformers_model import FAMILIES, TransformersModel

tf = pytest.importorskip("transformers", minversion=MINIMUM)

NAMES = ("road", "car", "sky", "car", "tree")
SIDE = 64
SIZES = [(75, 101), (101, 67)]


def config(kind: str, **options: Any) -> Any:
    """A tiny configuration. The same options go to all kinds that know them."""
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
    return getattr(tf, f"{kind}Config")(**options, **names)


def swin() -> Any:
    return tf.SwinConfig(image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
                         out_features=[f"stage{k}" for k in range(1, 5)])  # fmt: skip


def segformer() -> tuple[nn.Module, Any]:
    sizes = config("Segformer", num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
                   patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
                   decoder_hidden_size=16)  # fmt: skip
    processor = tf.SegformerImageProcessor(size={"height": SIDE, "width": SIDE + 32}, do_reduce_labels=True)
    return tf.SegformerForSemanticSegmentation(sizes), processor


def upernet() -> tuple[nn.Module, Any]:
    backbone = tf.ConvNextConfig(num_stages=4, hidden_sizes=[8] * 4, depths=[1] * 4,
                                 out_features=[f"stage{k}" for k in range(1, 5)])  # fmt: skip
    sizes = config("UperNet", backbone_config=backbone, hidden_size=8, pool_scales=[1, 2], auxiliary_channels=8,
                   auxiliary_in_channels=8)  # fmt: skip
    processor = tf.SegformerImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.1, 0.2, 0.3])
    return tf.UperNetForSemanticSegmentation(sizes), processor


def vit(kind: str, **options: Any) -> Any:
    return config(kind, hidden_size=16, num_attention_heads=2, image_size=SIDE, patch_size=16, **options)


def beit() -> tuple[nn.Module, Any]:
    sizes = vit("Beit", num_hidden_layers=4, intermediate_size=16, out_indices=[1, 2, 3, 4], pool_scales=[1, 2],
                use_relative_position_bias=True, auxiliary_channels=8)  # fmt: skip
    processor = tf.BeitImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    return tf.BeitForSemanticSegmentation(sizes), processor


def dpt() -> tuple[nn.Module, Any]:
    sizes = vit("DPT", num_hidden_layers=4, intermediate_size=16, backbone_out_indices=[0, 1, 2, 3],
                neck_hidden_sizes=[8] * 4, fusion_hidden_size=8)  # fmt: skip
    return tf.DPTForSemanticSegmentation(sizes), tf.DPTImageProcessor(size={"height": SIDE, "width": SIDE})


def maskformer() -> tuple[nn.Module, Any]:
    decoder = tf.DetrConfig(encoder_layers=1, decoder_layers=1, d_model=32, encoder_attention_heads=2,
                            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
                            num_queries=6)  # fmt: skip
    sizes = config("MaskFormer", backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32,
                   mask_feature_size=32)  # fmt: skip
    processor = tf.MaskFormerImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    return tf.MaskFormerForInstanceSegmentation(sizes), processor


def mask2former() -> tuple[nn.Module, Any]:
    sizes = config("Mask2Former", backbone_config=swin(), hidden_dim=32, feature_size=32, mask_feature_size=32,
                   num_queries=6, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
                   encoder_feedforward_dim=16, dim_feedforward=16)  # fmt: skip
    processor = tf.Mask2FormerImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    return tf.Mask2FormerForUniversalSegmentation(sizes), processor


def eomt(kind: str = "Eomt", split: bool = True, **options: Any) -> tuple[nn.Module, Any]:
    sizes = vit(kind, num_hidden_layers=3, num_blocks=1, num_queries=6, **options)
    size = {"shortest_edge": SIDE, "longest_edge": None if split else SIDE}
    processor = tf.EomtImageProcessor(size=size, do_split_image=split, do_pad=not split)
    return getattr(tf, f"{kind}ForUniversalSegmentation")(sizes), processor


def videomt() -> tuple[nn.Module, Any]:
    sizes = vit("Videomt", num_hidden_layers=3, num_blocks=1, num_queries=6)
    processor = tf.VideomtVideoProcessor(size={"height": SIDE, "width": SIDE})
    return tf.VideomtForUniversalSegmentation(sizes), processor


BUILD: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "beit": beit,
    "dpt": dpt,
    "eomt": eomt,
    "eomt_dinov3": lambda: eomt("EomtDinov3", intermediate_size=32),
    "mask2former": mask2former,
    "maskformer": maskformer,
    "segformer": segformer,
    "upernet": upernet,
    "videomt": videomt,
    "padded": lambda: eomt(split=False),
}

Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Folders of tiny models by their kind, each built once."""
    home = tmp_path_factory.mktemp("hub")

    def folder(kind: str) -> Path:
        if not (home / kind).is_dir():
            torch.manual_seed(3)
            network, processor = BUILD[kind]()
            for name, parameter in network.named_parameters():
                # Weights that give label maps of more than one class.
                if parameter.ndim > 1 or name.endswith("mask_embedder.2.0.bias"):
                    nn.init.normal_(parameter, std=2.0 if "class_predictor" in name else 0.4)
            network.save_pretrained(home / kind)
            processor.save_pretrained(home / kind)
        return home / kind

    return folder


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Callable[[str], Path]:
    """Copies of these folders that a test may damage."""
    return lambda kind: Path(shutil.copytree(saved(kind), tmp_path / kind))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth random colours, uint8 [3, H, W]."""
    coarse = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(coarse, size, mode="bicubic") * 255).clamp(0, 255).byte()[0]


def by_the_library(model: TransformersModel, image: Tensor) -> np.ndarray:
    """The label map of one frame as the library's documentation makes it, from a numpy picture."""
    pixels = image.permute(1, 2, 0).numpy()
    with torch.no_grad():
        inputs = model.processor(pixels[None] if model.input_type == "videos" else pixels, return_tensors="pt")
        outputs = model.network(**inputs)
        size = tuple(image.shape[-2:])
        return model.processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0].numpy()


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_label_maps_are_the_librarys(saved: Saved, kind: str) -> None:
    model = load(saved(kind))
    assert isinstance(model, TransformersModel)
    assert not model.training
    classes = set()
    for size in SIZES:
        image = picture(size)
        got, want = Stream(model, "cpu").step(Frame(image, 0, 0.0, "0")), by_the_library(model, image)
        classes |= set(want.flat)
        # Pixels where two classes tie to the last bits of float32 may differ.
        assert (got == want).mean() >= 0.999, size
    assert len(classes) > 1


@pytest.mark.parametrize("kind", ["segformer", "mask2former", "eomt", "padded", "videomt"])
def test_a_batch_is_its_frames(saved: Saved, kind: str) -> None:
    model = load(saved(kind))
    frames = torch.stack([picture((45, 70), seed) for seed in range(2)])
    with torch.no_grad():
        both = model.step(frames)[0]
        alone = torch.cat([model.step(frame[None])[0] for frame in frames])
    torch.testing.assert_close(both, alone, rtol=1e-3, atol=1e-3)


# -- EoMT: squares -----------------------------------------------------------------------------------------------------


def test_padding_is_cut_off(saved: Saved) -> None:
    """The oracle is the library's `unpad_image`, which its panoptic post-processing uses, on semantic scores."""
    model = load(saved("padded"))
    classes = set()
    for size in [(37, 97), (97, 37)]:
        image = picture(size)
        with torch.no_grad():
            outputs = model.network(**model.processor(image.permute(1, 2, 0).numpy(), return_tensors="pt"))
            scores = semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits, (SIDE, SIDE))
        want = model.processor.unpad_image(scores, [size], model.processor.size)[0].argmax(0).numpy()
        assert (Stream(model, "cpu").step(Frame(image, 0, 0.0, "0")) == want).mean() >= 0.999, size
        classes |= set(want.flat)
    assert len(classes) > 1


def test_squares_average_where_they_overlap(saved: Saved) -> None:
    """67 x 150 becomes 64 x 143, so three squares start at 0, 39 (39.5 cut) and 79."""
    model: Any = load(saved("eomt"))
    squares: list[Tensor] = []
    model.network.register_forward_hook(
        lambda network, args, outputs: squares.append(
            semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits, (SIDE, SIDE))
        )
    )
    with torch.no_grad():
        scores = model.step(picture((67, 150))[None])[0][0]
    first, second, third = squares[0]
    assert scores.shape == (5, 64, 143)
    torch.testing.assert_close(scores[..., :39], first[..., :39])
    torch.testing.assert_close(scores[..., 39:64], (first[..., 39:] + second[..., :25]) / 2)
    torch.testing.assert_close(scores[..., 103:], third[..., 24:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"shortest_edge": 32, "longest_edge": None}}, "expected a size of 64x64, .* came 32x32"),
        ({"do_split_image": False}, "expected do_split_image or do_pad"),
        ({"do_center_crop": True}, "came do_center_crop, which leaves the borders"),
    ],
)
def test_settings_that_do_not_fit(copied: Saved, changes: dict[str, Any], message: str) -> None:
    folder = copied("eomt")
    edit(folder / "preprocessor_config.json", **changes)
    with pytest.raises(InputError, match=message):
        load(folder)


# -- VidEoMT: queries travel -------------------------------------------------------------------------------------------


def test_stream_is_the_clip(saved: Saved) -> None:
    model = load(saved("videomt"))
    clip = torch.stack([torch.stack([picture((40, 60), 10 * b + t) for t in range(4)]) for b in range(2)])  # B T C H W
    options = {"input_data_format": "channels_first", "do_sample_frames": False, "return_tensors": "pt"}
    with torch.no_grad():
        outputs = model.network(**model.processor(list(clip), **options))
        whole = semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits).unflatten(0, (4, 2))
        state = None
        for t in range(4):
            scores, state = model.step(clip[:, t], state)
            torch.testing.assert_close(scores, whole[t], rtol=1e-5, atol=1e-6)
        alone = model.step(clip[:, 3])[0]
    assert state.shape == (2, 6, 16)
    assert not torch.allclose(alone, whole[3], atol=1e-3)  # the past matters
    snapshot(state)  # so that an interrupted job can go on


def test_streams_do_not_mix(saved: Saved) -> None:
    model = load(saved("videomt"))
    frames = [picture((40, 60), seed)[None] for seed in range(4)]
    with torch.no_grad():
        first, second = model.step(frames[0])[1], model.step(frames[1])[1]
        mixed = [model.step(frames[2], first)[0], model.step(frames[3], second)[0]]
        for start, end, got in zip(frames[:2], frames[2:], mixed, strict=True):
            assert torch.equal(got, model.step(end, model.step(start)[1])[0])


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


# -- through predict and evaluate --------------------------------------------------------------------------------------


def test_predict_and_evaluate(saved: Saved, tmp_path: Path) -> None:
    """Files hold raw ids, 1 above the library's classes; scored by name against other classes, all is right."""
    folder, shot = str(saved("segformer")), tmp_path / "own" / "videos" / "shot"
    shot.mkdir(parents=True)
    for k in range(2):
        Image.fromarray(picture((51, 77), k).permute(1, 2, 0).numpy()).save(shot / f"{k}.png")
    assert main(["predict", str(shot), "--model", folder, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    model, masks = load(folder), tmp_path / "own" / "masks" / "shot"
    masks.mkdir(parents=True)
    to_other = np.array([3, 9, 7, 5, 4], np.uint8)  # the data's raw ids of the model's classes
    for k in range(2):
        want = by_the_library(model, picture((51, 77), k))
        got = read_raw(tmp_path / "out" / "shot" / f"{k}.png")
        assert (got == want + 1).mean() >= 0.999
        Image.fromarray(to_other[got - 1]).save(masks / f"{k}.png")
    classes = {3: "Road", 4: "tree", 5: "car_(3)", 7: "sky", 9: "car (1)"}
    (tmp_path / "own" / "classes.json").write_text(json.dumps(classes))
    results = evaluate(
        data=f"folder:{tmp_path / 'own'}", split="all", model=folder, flow=None, bootstrap=0, windows=[2]
    )
    assert results.score("mIoU").value == 1.0

    (tmp_path / "own" / "classes.json").write_text(json.dumps({k: f"thing {k}" for k in classes}))
    with pytest.raises(InputError, match="expected classes of the data"):
        evaluate(data=f"folder:{tmp_path / 'own'}", split="all", model=folder, flow=None, bootstrap=0)


def test_saves_what_it_loads(saved: Saved, tmp_path: Path) -> None:
    model = load(saved("maskformer"))
    model.save_pretrained(tmp_path / "again")
    again, image = everyframe.load(tmp_path / "again"), picture((40, 60))[None]
    with torch.no_grad():
        assert torch.equal(again.step(image)[0], model.step(image)[0])


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
