"""A recipe that joins data sets and weighs classes, from its text to a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_sets import write_coco, write_vspw

from everyframe.data.datamodule import ClipDataModule
from everyframe.errors import InputError
from everyframe.losses.class_weights import class_weights
from everyframe.training.recipe import resolve
from everyframe.training.start import start, weighted

RECIPE = """
model:
  name: fcn-tiny
data:
  data: vspw:{home}/vspw
  also:
    - data: coco_stuff:{home}/coco@train
      share: 0.25
      effective: 0.5
  per: frame
  batch_size: 2
  crop: 16
  workers: 0
  repeat_threshold: 0.5
objective:
  class_weights: median-frequency
trainer: {{accelerator: cpu, precision: 32-true, enable_progress_bar: false}}
out: {home}/run
steps: 2
validate_every: 2
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("EVERYFRAME_CACHE", str(tmp_path / "cache"))
    write_vspw(tmp_path / "vspw")
    write_coco(tmp_path / "coco")
    return yaml.safe_load(RECIPE.format(home=tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_recipe_trains_and_repeats_itself(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run = start(resolve(config))
    assert run.score is not None
    # train0..3 with 3 labelled frames each, and 3 of COCO's 4 pictures.
    told = "7 training videos with 15 labelled frames (among them 3 of 4 label maps of coco_stuff:"
    assert told in capsys.readouterr().err
    written = yaml.safe_load(run.folder.config.read_text())
    assert written["objective"]["class_weights"] == "median-frequency"
    assert resolve(written)["data"]["also"] == resolve(config)["data"]["also"]


def test_weights_by_formula(config: dict[str, Any]) -> None:
    options = resolve(config)
    data = ClipDataModule(**options["data"])
    weights = weighted(options["objective"], data, "objective")["class_weights"]
    assert weights == class_weights("median-frequency", data.class_counts)
    assert weights[48] > weights[66] == 1 > weights[60]  # car, tree, person
    assert weights[0] == 1.0
    assert weighted(options["masks"], data, "masks")["class_weights"] is None


def test_weights_of_masks_and_wrong_ones(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config["masks"] = {"class_weights": [1.0, 2.0]}
    with pytest.raises(InputError, match=r"masks\.class_weights: expected 124 weights, one per class, came 2"):
        start(resolve(config))
    for section in ("objective", "masks"):
        with pytest.raises(InputError, match=rf"{section}\.class_weights: expected one of .*inverse-sqrt.*came median"):
            resolve(config, {f"{section}.class_weights": "median"})


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("coco_stuff:/d@train+val", ["coco_stuff:/d@train+val"]),
        ("[coco_stuff:/d@train+val, ade20k:/e]", ["coco_stuff:/d@train+val", "ade20k:/e"]),
        (
            "[{data: ade20k:/e, share: 0.1}]",
            [{"data": "ade20k:/e", "share": 0.1, "mapping": None, "effective": None, "budget": "all"}],
        ),
    ],
)
def test_sources_on_the_command_line(config: dict[str, Any], text: str, sources: list[object]) -> None:
    assert resolve(config, {"data.also": text})["data"]["also"] == sources


def test_a_misspelt_attribute_is_one_line(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"data\.also: .*Option 'shar' is not accepted") as raised:
        resolve(config, {"data.also": "[{data: x, shar: 1}]"})
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
def test_clips_of_still_images_are_marked(config: dict[str, Any]) -> None:
    """`Clip.still` is what losses over time leave them out by."""
    data = ClipDataModule(**{**resolve(config)["data"], "queries": 2, "adjacent": (), "reference": None})
    data.batches_per_epoch = 8
    clips = list(data.train_dataloader())
    stills = torch.cat([clip.still for clip in clips])
    assert stills.tolist() == [name.startswith("also") for clip in clips for name in clip.videos]
    assert 0 < int(stills.sum()) < len(stills)
