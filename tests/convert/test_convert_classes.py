"""Other classes, other frame sizes, backbones alone, RAFT: computed by hand, or by their own libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from published_names import RESNET, published, resnet_table

import everyframe
from everyframe.cli.__main__ import main
from everyframe.convert.convert import convert
from everyframe.errors import InputError
from everyframe.flow import RAFTFlow
from everyframe.labels import LabelSpace
from everyframe.models.convert import backbones, mmseg, raft, vit_adapter
from everyframe.models.convert.keys import nested
from everyframe.models.convert.positions import fit_positions
from everyframe.models.convert.reheading import averaged_rows
from everyframe.models.ops.class_layer import ClassLayer, class_layers
from everyframe.models.ops.relative_position import resize_table
from everyframe.models.warm_start import start_from
from everyframe.models.zoo import create_model

SOURCE = LabelSpace(("sedan", "bus", "road", "sky"))
MAPPING = "source_id,source_name,target_id,target_name\n0,sedan,1,car\n1,bus,1,car\n2,road,0,road\n3,sky,,\n"
CLASSES = "0: road\n1: car\n2: tree\n"
BEIT = vit_adapter.BACKBONES["BEiTAdapter"]

# -- class layers -----------------------------------------------------------------------------------------------------


def test_rows_are_averaged_by_hand() -> None:
    old = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    fresh = torch.tensor([[-1.0, -1.0], [-2.0, -2.0]])
    assert averaged_rows(old, fresh, {0: 1, 2: 1}, ClassLayer()).tolist() == [[-1, -1], [3, 4]]
    # The last row, "no object", stays; it is no class.
    assert averaged_rows(old, fresh, {0: 0, 1: 0}, ClassLayer(kept=1)).tolist() == [[2, 3], [5, 6]]
    tokens = averaged_rows(old.T[None], torch.zeros(1, 2, 1), {2: 0}, ClassLayer(dim=2))
    assert tokens.tolist() == [[[5], [6]]]


def test_class_layers_of_each_head() -> None:
    names = set(class_layers(create_model("psp-resnet18", SOURCE, backbone=RESNET, head={"width": 8})))
    heads = ("head.classifier", "head.auxiliary.classifier")
    assert names == {f"{head}.{p}" for head in heads for p in ("weight", "bias")}
    assert "head.cls_embed.weight" in class_layers(create_model("mask2former-tiny", SOURCE))
    model = create_model("segmenter-tiny", SOURCE)
    for name, layer in class_layers(model).items():
        assert model.state_dict()[name].shape[layer.dim] == 4


@pytest.mark.parametrize("head", ["psp", "mask2former", "segmenter"])
def test_another_class_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str) -> None:
    kind = {"psp": "PSPHead", "mask2former": "Mask2FormerHead", "segmenter": "SegmenterMaskTransformerHead"}[head]
    options = {"psp": {"width": 8, "auxiliary": None}, "mask2former": {"width": 64}, "segmenter": {"width": 64}}[head]
    body = {**RESNET, **({"output_stride": 32} if head == "mask2former" else {})}
    model = create_model(f"{head}-resnet18", SOURCE, backbone=body, head=options)
    state = {key.replace(".bn.", ".gn.") if "pixel_decoder" in key else key: x
             for key, x in published(model.state_dict(), resnet_table(kind)).items()}  # fmt: skip
    torch.save({"meta": {"CLASSES": SOURCE.names}, "state_dict": state}, tmp_path / "a.pth")
    (tmp_path / "map.csv").write_text(MAPPING)
    (tmp_path / "classes.yaml").write_text(CLASSES)
    arguments = [
        "convert",
        str(tmp_path / "a.pth"),
        "--to",
        str(tmp_path / "m"),
        "--mapping",
        str(tmp_path / "map.csv"),
    ]
    assert main([*arguments, "--classes", str(tmp_path / "classes.yaml")]) == 0
    assert "fresh classes, 1 of 3 without a source: tree" in capsys.readouterr().out
    again = everyframe.load(tmp_path / "m")
    assert again.label_space.names == ("road", "car", "tree")
    before, after = model.state_dict(), again.state_dict()
    for name, layer in class_layers(again).items():
        old, new = before[name].movedim(layer.dim, 0), after[name].movedim(layer.dim, 0)
        assert len(new) == 3 + layer.kept
        torch.testing.assert_close(new[0], old[2])
        torch.testing.assert_close(new[1], (old[0] + old[1]) / 2)
        assert not any(torch.equal(new[2], row) for row in old) or not new[2].abs().sum() or new.ndim == 1
        if layer.kept:
            assert torch.equal(new[-1], old[-1])
    kept = [name for name in before if name not in class_layers(again)]
    assert all(torch.equal(before[name], after[name]) for name in kept)


def test_equal_names_need_no_mapping(tmp_path: Path) -> None:
    model = create_model("psp-resnet18", SOURCE, backbone=RESNET, head={"width": 8, "auxiliary": None})
    state = published(model.state_dict(), resnet_table("PSPHead"))
    torch.save(state, tmp_path / "a.pth")
    wanted = LabelSpace(("Sky", "lake", "road"))
    done = convert(tmp_path / "a.pth", tmp_path / "m", classes=wanted, source_classes=SOURCE)
    assert done.fresh_classes == ["lake"]
    rows = everyframe.load(tmp_path / "m").head.classifier.weight
    assert torch.equal(rows[[0, 2]], model.head.classifier.weight[[3, 2]])
    # Without names, the number of classes is all that is known.
    renamed = LabelSpace(("a", "b", "c", "d"))
    convert(tmp_path / "a.pth", tmp_path / "m", classes=renamed)
    again = everyframe.load(tmp_path / "m")
    assert again.label_space.names == renamed.names
    assert torch.equal(again.head.classifier.weight, model.head.classifier.weight)


def test_known_data_sets_have_a_mapping(tmp_path: Path) -> None:
    """ADE20K's classes become VSPW's by the packaged table: wall and wall; several become one."""
    from everyframe.convert.classes import read_space
    from everyframe.data.mapping import read_mapping

    ade, vspw = read_space("ade20k"), read_space("vspw")
    model = create_model("psp-resnet18", ade, backbone=RESNET, head={"width": 8, "auxiliary": None})
    state = published(model.state_dict(), resnet_table("PSPHead"))
    names = ["bed " if name == "bed" else name for name in ade.names]  # as mmsegmentation writes it
    torch.save({"meta": {"CLASSES": names}, "state_dict": state}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "m", classes="vspw")
    assert "classes mapped by ade20k_to_vspw" in done.notes
    assert len(done.fresh_classes) == 124 - 85
    again = everyframe.load(tmp_path / "m")
    assert again.label_space == vspw
    mapping = read_mapping("ade20k_to_vspw", ade, vspw)
    water = vspw.names.index("water")
    members = [i for i, target in mapping.items() if target == water]
    assert len(members) > 1
    want = model.head.classifier.weight[members].mean(0)
    torch.testing.assert_close(again.head.classifier.weight[water], want)


# -- frame size -------------------------------------------------------------------------------------------------------


def adapter_file(tmp_path: Path, size: int) -> tuple[Path, everyframe.models.segmenter.Segmenter]:
    torch.manual_seed(1)
    model = create_model("uper-beit-adapter-micro", SOURCE, backbone={"size": size}, head={"width": 8})
    for name, x in model.state_dict().items():
        if name.endswith("bias_table"):
            x.normal_()
    table = [*nested(BEIT, "backbone.", "backbone."), *mmseg.head_table({"type": "UPerHead"}, "decode_head.", "head.")]
    state = published(model.state_dict(), table)
    index = torch.zeros((size // 16) ** 2 + 1, (size // 16) ** 2 + 1, dtype=torch.long)
    state |= {f"backbone.blocks.{i}.attn.relative_position_index": index for i in range(4)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    return tmp_path / "a.pth", model


KEY = "backbone.trunk.blocks.1.attention.relative_position_bias_table"


def test_smaller_frames_take_the_centre_of_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = adapter_file(tmp_path, 128)
    assert main(["convert", str(path), "--to", str(tmp_path / "m"), "--image-size", "64"]) == 0
    printed = capsys.readouterr().out
    assert "dropped 4 (4 index of pairs, computed here)" in printed
    assert "changed 4 (4 positions of 8x8 patches fitted to 4x4)" in printed
    old, new = model.state_dict()[KEY], everyframe.load(tmp_path / "m").state_dict()[KEY]
    # 8 patches a side have offsets -7..7, 4 have -3..3: rows and columns 4..10 of 15, then the class token's rows.
    centre = old[:-3].unflatten(0, (15, 15))[4:11, 4:11].flatten(0, 1)
    assert torch.equal(new, torch.cat([centre, old[-3:]]))


def test_larger_frames_grow_the_tables_as_published(tmp_path: Path) -> None:
    path, model = adapter_file(tmp_path, 64)
    convert(path, tmp_path / "m", image_size=(96, 64))
    again = everyframe.load(tmp_path / "m")
    old, new = model.state_dict()[KEY], again.state_dict()[KEY]
    torch.testing.assert_close(new, resize_table(old, (4, 4), (6, 4)))
    # Columns keep their offsets; of the rows the middle one and the outermost stay where they were.
    before, after = old[:-3].unflatten(0, (7, 7)), new[:-3].unflatten(0, (11, 7))
    torch.testing.assert_close(after[5], before[3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[[0, 10]], before[[0, 6]], atol=1e-3, rtol=1e-3)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["options"]["backbone"]["size"] == [96, 64]
    with pytest.raises(InputError, match="expected a multiple of 32 pixels, came 100x100"):
        convert(path, tmp_path / "m", image_size=100)


def test_absolute_positions_are_resized() -> None:
    model = create_model("uper-eva02-micro", SOURCE, backbone={"size": (64, 64)}, head={"width": 8})
    state = {"backbone.pos_embed": torch.cat([torch.ones(1, 1, 48), torch.full((1, 4, 48), 2.0)], dim=1)}
    fitted, changes = fit_positions(state, model)
    assert changes == {"backbone.pos_embed": "positions of 2x2 patches fitted to 4x4"}
    assert fitted["backbone.pos_embed"].shape == (1, 17, 48)
    torch.testing.assert_close(fitted["backbone.pos_embed"][0, 1:], torch.full((16, 48), 2.0))
    assert torch.equal(fitted["backbone.pos_embed"][:, :1], state["backbone.pos_embed"][:, :1])


# -- backbones alone --------------------------------------------------------------------------------------------------


def test_timms_resnet_with_a_fresh_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    theirs = timm.create_model("resnet18").eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    (tmp_path / "classes.yaml").write_text(CLASSES)
    command = ["convert", str(tmp_path / "resnet18.pth"), "--to", str(tmp_path / "m")]
    assert main(command) == 1
    assert "a backbone has no classes: give --classes" in capsys.readouterr().err
    model = ["--model", "psp-resnet18"]
    assert main([*command, "--classes", str(tmp_path / "classes.yaml"), *model]) == 0
    printed = capsys.readouterr().out
    assert "backbone -> psp-resnet18" in printed
    assert "a new head" in printed
    assert "everything else is fresh: train it" in printed
    ours = everyframe.load(tmp_path / "m")
    image = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(ours.backbone(image)[1], theirs.forward_intermediates(image)[1][2])

    # Training starts from it, with whatever head and classes; another backbone is refused.
    started = create_model("ocr-resnet18", SOURCE, head={"width": 16})
    start_from(started, tmp_path / "m")
    assert torch.equal(started.backbone.layer3[0].conv1.weight, ours.backbone.layer3[0].conv1.weight)
    with pytest.raises(InputError, match="init: expected a model with the backbone of ocr-tiny, came psp-resnet18"):
        start_from(create_model("ocr-tiny", SOURCE), tmp_path / "m")


def test_beit_becomes_the_trunk_of_an_adapter(tmp_path: Path) -> None:
    import timm

    shape = {"embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 64, "init_values": 0.1}
    theirs = timm.create_model("beitv2_base_patch16_224", **shape).state_dict()
    torch.save({"model": theirs}, tmp_path / "beit.pth")
    done = convert(tmp_path / "beit.pth", tmp_path / "m", classes=SOURCE)
    assert done.model == "uper-beit-adapter-micro"
    assert done.dropped["head.weight"] == "top of the classifier that was pretrained"
    assert set(done.fresh.values()) == {
        "a new head",
        "the adapter around the trunk",
        "output norms, which are not pretrained",
    }
    table = everyframe.load(tmp_path / "m").state_dict()[KEY]
    wanted = resize_table(theirs["blocks.1.attn.relative_position_bias_table"], (4, 4), (8, 8))
    torch.testing.assert_close(table, wanted)

    # Self-supervised files share one table among all blocks.
    shared = {key: x for key, x in theirs.items() if "relative" not in key and not key.startswith(("head", "fc"))}
    first = theirs["blocks.0.attn.relative_position_bias_table"]
    torch.save({"model": {**shared, "rel_pos_bias.relative_position_bias_table": first}}, tmp_path / "ssl.pth")
    convert(tmp_path / "ssl.pth", tmp_path / "m", classes=SOURCE, image_size=64)
    again = everyframe.load(tmp_path / "m").backbone.trunk
    assert all(torch.equal(block.attention.relative_position_bias_table, first) for block in again.blocks)


def test_focalnet_of_its_authors(tmp_path: Path) -> None:
    model = create_model("uper-focalnet-micro", SOURCE, head={"width": 8})
    body = {key: x for key, x in model.backbone.state_dict().items() if not key.startswith("norms.")}
    state = published(body, backbones.FOCALNET)
    torch.save(
        {"model": {**state, "head.weight": torch.zeros(2, 2), "norm.weight": torch.zeros(2)}}, tmp_path / "f.pth"
    )
    done = convert(tmp_path / "f.pth", tmp_path / "m", classes=SOURCE)
    assert done.model == "uper-focalnet-micro"
    again = everyframe.load(tmp_path / "m").backbone.state_dict()
    assert all(torch.equal(again[key], x) for key, x in body.items())


def test_backbones_of_other_sizes_are_refused(tmp_path: Path) -> None:
    import timm

    state = timm.create_model("deit_tiny_patch16_224", depth=2, img_size=32).state_dict()
    torch.save(state, tmp_path / "deit.pth")
    with pytest.raises(InputError, match="vit-adapter-micro, came a ViT of another size"):
        convert(tmp_path / "deit.pth", tmp_path / "m", classes=SOURCE)


def test_weights_of_another_frame_size_start_a_model(tmp_path: Path) -> None:
    path, model = adapter_file(tmp_path, 128)
    convert(path, tmp_path / "m")
    started = create_model("mask2former-beit-adapter-micro", SOURCE, backbone={"size": 64})
    start_from(started, tmp_path / "m")
    torch.testing.assert_close(started.state_dict()[KEY], resize_table(model.state_dict()[KEY], (8, 8), (4, 4)))


# -- RAFT, and the way to label maps ----------------------------------------------------------------------------------


def test_raft_of_its_authors_and_of_torchvision(tmp_path: Path) -> None:
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    state = raft_large(weights=None).state_dict()
    theirs = {f"module.{key}": x for key, x in published(state, raft.RAFT).items()}
    assert "module.fnet.conv1.weight" in theirs
    theirs["module.cnet.layer2.0.norm3.weight"] = torch.zeros(1)  # the authors' norm3 is downsample.1 again
    for name, content in (("authors", theirs), ("torchvision", state)):
        torch.save(content, tmp_path / f"{name}.pth")
        done = convert(tmp_path / f"{name}.pth", tmp_path / name)
        assert "--flow raft:" in done.notes[0]
        network = RAFTFlow(tmp_path / name / "raft_large.pth")._build()
        assert all(torch.equal(x, state[key]) for key, x in network.state_dict().items())
    torch.save({key: x[:1] if x.ndim else x for key, x in theirs.items()}, tmp_path / "small.pth")
    with pytest.raises(InputError, match="expected the weights of RAFT"):
        convert(tmp_path / "small.pth", tmp_path / "m")


def test_a_converted_model_labels_frames(tmp_path: Path) -> None:
    path, _ = adapter_file(tmp_path, 64)
    assert main(["convert", str(path), "--to", str(tmp_path / "m")]) == 0
    (tmp_path / "shot").mkdir()
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(tmp_path / "shot" / "0.jpg")
    command = ["predict", str(tmp_path / "shot"), "--model", str(tmp_path / "m"), "--out", str(tmp_path / "out")]
    assert main([*command, "--no-overlay"]) == 0
    with Image.open(tmp_path / "out" / "shot" / "0.png") as labels:
        assert labels.size == (64, 48)
