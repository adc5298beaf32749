"""`everyframe bench model`: every figure is what it says, and the peer does what transformers does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from everyframe.cli.__main__ import VERBS, main
from everyframe.cli.bench import BENCHES
from everyframe.cli.bench_model import RecipeRun, noise_clip
from everyframe.cli.peak_memory import PeakMemory
from everyframe.cli.timing import in_turns
from everyframe.errors import InputError
from everyframe.frames import IGNORE, Role
from everyframe.models.cost import count_operations
from everyframe.models.ops.deform_attn import ms_deform_attn, only
from everyframe.models.transformers_peer import TransformersPeer
from everyframe.models.zoo import create_model

CPU = torch.device("cpu")
TINY = ["--size", "32", "64", "--classes", "3", "--rounds", "1", "--device", "cpu"]


def test_operations_are_those_counted_by_hand() -> None:
    layer, x = nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.randn(2, 3, 4, 6)
    assert count_operations(lambda: layer(x)) == 2 * 2 * 4 * 6 * 5 * 3 * 9
    weight = torch.randn(7, 3, requires_grad=True)
    # forward, and backward to the weight alone: x asks for no gradient
    assert count_operations(lambda: (torch.ones(4, 3) @ weight.T).sum().backward()) == 2 * (2 * 4 * 7 * 3)
    q = torch.randn(1, 2, 5, 8)
    assert count_operations(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == 2 * (2 * 2 * 5 * 5 * 8)


def test_calls_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    times = in_turns({name: lambda name=name: order.append(name) for name in "abc"}, 2, CPU)
    assert "".join(order) == "abcbcacab"
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_only_noise_of_the_right_shapes_and_labels() -> None:
    clip = noise_clip((Role.REFERENCE, Role.QUERY), 2, (40, 50), 3)
    assert clip.images.shape == (2, 2, 3, 40, 50)
    assert clip.labels[:, 0].unique().tolist() == [IGNORE]
    assert set(clip.query_labels.unique().tolist()) == {0, 1, 2, IGNORE}


def test_the_command_writes_all_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.json"
    recipe = ["--recipe", "mask2former-tiny", "--ops", "auto", "plain", "--beside", "transformers"]
    assert main(["bench", "model", *recipe, *TINY, "--json", str(out)]) == 0
    numbers = json.loads(out.read_text())
    for part in ("predict", "train"):
        rows = numbers[part]
        assert {"auto", "plain", "transformers"} <= set(rows)
        for name in ("plain", "transformers"):
            assert rows[f"ratio_{name}_to_auto"] == pytest.approx(rows[name]["seconds"] / rows["auto"]["seconds"])
        row = rows["plain"]
        assert row["per_second"] == pytest.approx(1 / row["seconds"])
        share = row["operations"] / row["seconds"] / numbers["matrix_rate"]
        assert row["share_of_matrix_rate"] == pytest.approx(share)
        assert row["peak_bytes"] >= 0
    assert numbers["train"]["auto"]["operations"] > 2 * numbers["predict"]["auto"]["operations"]
    text = capsys.readouterr().out
    assert "mask2former-tiny" in text
    assert " x\n" in text


def test_a_training_step_moves_every_weight() -> None:
    run = RecipeRun("mask2former-tiny", (32, 64), 3, 1, CPU, torch.float32)
    run.model.train()
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.train()
    still = [name for name, p in run.model.named_parameters() if torch.equal(p, before[name])]
    # Positions steer where is looked, which the first step only begins to learn: these weights are 0 at the start.
    assert still == ["head.pixel_decoder.level_encoding"]


def test_the_peer_has_our_widths_and_our_backbone() -> None:
    run = RecipeRun("mask2former-tiny", (32, 64), 3, 1, CPU, torch.float32)
    peer = TransformersPeer(run.model, points=64)

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    backbone, head = size(run.model.backbone), size(run.model.head)
    assert next(iter(peer.network.model.pixel_level_module.encoder.parameters())) is next(
        iter(run.model.backbone.parameters())
    )
    assert size(peer) - backbone == head
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    assert peer.eval().semantic(images).shape == (2, 3, 8, 16)


def test_the_peer_is_taught_the_masks_of_a_label_map(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RecipeRun("mask2former-tiny", (32, 64), 3, 1, CPU, torch.float32)
    peer = TransformersPeer(run.model, points=256).train()
    labels = torch.full((2, 4, 6), IGNORE, dtype=torch.uint8)
    labels[0, :2], labels[0, 3], labels[1, :, 1] = 2, 0, 1
    given: dict[str, Any] = {}

    def forward(**arguments: Any) -> SimpleNamespace:
        given.update(arguments)
        return SimpleNamespace(loss=torch.tensor(3.0))

    monkeypatch.setattr(peer.network, "forward", forward)
    assert peer.loss(torch.full((2, 3, 4, 6), 128, dtype=torch.uint8), labels).item() == 3
    assert [found.tolist() for found in given["class_labels"]] == [[0, 2], [1]]
    assert torch.equal(given["mask_labels"][0][1], (labels[0] == 2).float())
    assert given["mask_labels"][1].sum() == 4
    mean, std = run.model.mean.flatten() / 255, run.model.std.flatten() / 255
    torch.testing.assert_close(given["pixel_values"][1, :, 2, 3], (128 / 255 - mean) / std)


def test_forms_that_cannot_run_are_refused() -> None:
    value, locations = torch.randn(1, 6, 1, 4), torch.rand(1, 2, 1, 1, 3, 2)
    weights = torch.rand(1, 2, 1, 1, 3)
    with only("plain"):
        plain = ms_deform_attn(value, [(2, 3)], locations, weights)
    torch.testing.assert_close(ms_deform_attn(value, [(2, 3)], locations, weights), plain)
    with (
        pytest.raises(InputError, match="expected a CUDA device with Triton for the kernels, came cpu"),
        only("triton"),
    ):
        ms_deform_attn(value, [(2, 3)], locations, weights)
    with pytest.raises(InputError, match="expected one of auto, plain, triton, came 'fast'"), only("fast"):
        pass


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rounds", "0"], "numbers of at least 1"),
        (["--recipe", "mask2former-tny"], "mask2former-tiny"),
        (
            ["--recipe", "fcn-tiny", "--beside", "transformers"],
            "whose head is Mask2Former, came FCNHead",
        ),
    ],
)
def test_mistakes_say_what_to_type(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model", *TINY, *words]) == 1
    assert expected in capsys.readouterr().err


def test_models_of_other_heads_are_no_peers() -> None:
    run = RecipeRun("fcn-tiny", (32, 64), 3, 1, CPU, torch.float32)
    with pytest.raises(InputError, match="leave --beside out"):
        TransformersPeer(create_model("fcn-tiny", run.model.label_space))


def test_peak_memory_is_that_of_the_work_alone() -> None:
    keeps = torch.ones(2**23)  # 32 MiB that lie there before
    with PeakMemory(CPU) as peak:
        for _ in range(4):
            more = keeps.repeat(3)  # 96 MiB
            time.sleep(0.02)
            del more
    assert 80 * 2**20 < peak.extra < 140 * 2**20


def test_help_names_every_bench() -> None:
    named = VERBS["bench"].partition("(bench ")[2].rstrip(")").split(", ")
    assert sorted(named) == sorted(BENCHES)
