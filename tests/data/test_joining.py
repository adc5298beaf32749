"""Several data sets in one training: mapping, filter, shares, still images, ranks, resuming."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_sets import write_ade, write_coco, write_vspw

from everyframe.data import label_counts
from everyframe.data.datamodule import ClipDataModule
from everyframe.data.joining import DataSource, join_source
from everyframe.data.layouts import load_split
from everyframe.data.loader import ClipLoader
from everyframe.errors import InputError
from everyframe.frames import IGNORE, Clip, Role
from everyframe.losses.class_weights import median_frequency


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sets")
    write_vspw(home / "vspw")
    write_coco(home / "coco")
    write_ade(home / "ade")
    return home


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVERYFRAME_CACHE", str(tmp_path / "cache"))


def module(home: Path, *also: object, **options: object) -> ClipDataModule:
    sources = [DataSource.of(source) for source in also]  # type: ignore[arg-type]
    settings = {"batch_size": 2, "crop": 16, "adjacent": (), "reference": None, "workers": 0, "val_split": "val"}
    return ClipDataModule(f"vspw:{home / 'vspw'}", also=sources, **{**settings, **options})


def batches(data: ClipDataModule, count: int) -> list[Clip]:
    data.batches_per_epoch = count
    loader = data.train_dataloader()
    assert not isinstance(loader, dict)
    return list(loader)


def names(clips: list[Clip]) -> list[str]:
    return [name for clip in clips for name in clip.videos]


def upcoming(data: ClipDataModule, count: int) -> list[str]:
    """Videos of the next clips, which are not read."""
    loader = data.train_dataloader()
    assert isinstance(loader, ClipLoader)
    clips = loader.dataset.dataset  # type: ignore[attr-defined]
    return [clips.videos[clips.clips[place][0]].name for _, place in islice(loader.sampler.order.keys(), count)]  # type: ignore[attr-defined]


# -- reading, mapping, filter ----------------------------------------------------------------------------------------


def test_images_with_more_than_80_percent_effective_pixels_stay(home: Path) -> None:
    """20/20 and 17/20 pass; 16/20 = 80 % and 10/20 do not."""
    joined = module(home, f"coco_stuff:{home / 'coco'}").joined[0]
    assert [video.name for video in joined.videos] == ["also0/000000000000", "also0/000000000001"]
    assert (joined.labels, joined.kept) == (4, 2)


@pytest.mark.parametrize(("effective", "kept"), [(0.84, 2), (0.85, 1), (0.79, 3), (0.0, 4)])
def test_threshold_is_an_option(home: Path, effective: float, kept: int) -> None:
    data = module(home, DataSource(f"coco_stuff:{home / 'coco'}@train", effective=effective))
    assert data.joined[0].kept == kept


def test_masks_are_counted_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module(home, f"coco_stuff:{home / 'coco'}").joined[0].kept == 2
    monkeypatch.setattr(label_counts, "scan_mask", lambda path: pytest.fail("counted again"))
    assert module(home, DataSource(f"coco_stuff:{home / 'coco'}", effective=0.5)).joined[0].kept == 3


def test_clips_hold_the_main_ids(home: Path) -> None:
    data = module(home, f"coco_stuff:{home / 'coco'}", f"ade20k:{home / 'ade'}@val", flip=0.0, scale=(1.0, 1.0))
    found: dict[str, set[int]] = {}
    for clip in batches(data, 24):
        for name, labels in zip(clip.videos, clip.labels, strict=True):
            found.setdefault(name.split("/")[0], set()).update(labels.unique().tolist())
    # VSPW's train ids: person 60, car 48, tree 66, wall 0; skis and base are ignored.
    assert found["train0"] == {60, 66}
    assert found["train3"] == {60, 66, 48}
    assert found["also0"] == {60, 48, 255}
    assert found["also1"] == {0, 255}
    assert data.label_space.names == load_split(f"vspw:{home / 'vspw'}", "train")[1].names


def test_own_mapping_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("source_name,target_name\nwall,building\n")
    data = module(home, DataSource(f"ade20k:{home / 'ade'}@val", mapping=str(tmp_path / "own.csv")))
    space = data.joined[0].videos[0].space
    assert space is not None
    assert {space.raw_to_train[raw] for raw in (0, 2, 41)} == {255}
    assert data.label_space.names[space.raw_to_train[1]] == "building"


def test_same_classes_need_no_mapping_and_no_filter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_counts, "scan_mask", lambda path: pytest.fail("counted"))
    data = module(home, f"vspw:{home / 'vspw'}@val+train")
    assert [v.name for v in data.joined[0].videos] == ["also0/val0", *(f"also0/train{n}" for n in range(4))]
    assert len(data.labelled_videos) == 9


def test_validation_and_the_budget_stay_the_main_ones(home: Path, tmp_path: Path) -> None:
    data = module(home, f"coco_stuff:{home / 'coco'}", budget=1)
    assert [video.name for video in data.val_videos] == ["val0"]
    assert sum(len(video.labelled) for video in data.labelled_videos) == 4 + 2
    again = module(home, f"coco_stuff:{home / 'coco'}", budget=str(data.write_budget(tmp_path)))
    assert [v.labelled for v in again.labelled_videos] == [v.labelled for v in data.labelled_videos]


def test_refused(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for n in range(2):
        (folder / f"images/{n}.jpg").write_bytes((home / "coco/images/train2017/000000000000.jpg").read_bytes())
        (folder / f"masks/{n}.png").write_bytes((home / "coco/annotations/train2017/000000000000.png").read_bytes())
    (folder / "classes.yaml").write_text("0: human\n")
    with pytest.raises(InputError, match="images -> vspw: expected a mapping from its 1 classes"):
        _ = module(home, f"images:{folder}@train").joined
    with pytest.raises(InputError, match=r"after coco_stuff:, came .*gone"):
        _ = module(home, f"coco_stuff:{home / 'gone'}").joined
    (tmp_path / "wood.csv").write_text("source_name,target_name\nwood,wood\n")
    with pytest.raises(InputError, match=r"4 label maps of which none has more than 80%"):
        _ = module(home, DataSource(f"coco_stuff:{home / 'coco'}", str(tmp_path / "wood.csv"))).joined
    with pytest.raises(InputError, match=r"sum up to less than 1, came 1\.1"):
        module(
            home,
            DataSource(f"coco_stuff:{home / 'coco'}", share=0.6),
            DataSource(f"ade20k:{home / 'ade'}@val", share=0.5),
        ).train_dataloader()
    for wrong in ({"share": 1.0}, {"share": -0.1}, {"effective": 1.0}, {"shar": 1}):
        with pytest.raises(InputError):
            DataSource.of({"data": "x", **wrong})
    with pytest.raises(InputError, match=r"data\.also"):
        DataSource.of({"share": 0.1})


def test_joined_videos_share_their_label_space(home: Path) -> None:
    """One object for all pictures: a hundred thousand tables would fill the memory."""
    target = "vspw", load_split(f"vspw:{home / 'vspw'}", "train")[1]
    videos = join_source(DataSource(f"coco_stuff:{home / 'coco'}"), target).videos
    assert len({id(video.space) for video in videos}) == 1


# -- clips -----------------------------------------------------------------------------------------------------------


def test_still_images_are_clips_of_the_same_length_labelled_once(home: Path) -> None:
    data = module(home, f"coco_stuff:{home / 'coco'}", queries=2, adjacent=(-1,), batch_size=6)
    for clip in batches(data, 3):
        assert clip.images.shape == (6, 3, 3, 16, 16)
        assert clip.roles == (Role.ADJACENT, Role.QUERY, Role.QUERY)
        stills = [name.startswith("also") for name in clip.videos]
        assert clip.still.tolist() == stills
        for labelled, labels, still in zip(clip.labelled.tolist(), clip.labels, stills, strict=True):
            assert not still or labelled == [False, False, True]
            assert not still or ((labels[:2] == IGNORE).all() and (labels[2] != IGNORE).any())


def test_each_source_has_its_own_budget(home: Path, tmp_path: Path) -> None:
    """The source is the main data set once more."""
    whole = [len(video.labelled) for video in module(home).labelled_videos]
    data = module(home, {"data": f"vspw:{home / 'vspw'}@train", "budget": 1})
    counts = {video.name: len(video.labelled) for video in data.labelled_videos}
    assert [count for name, count in counts.items() if not name.startswith("also0/")] == whole
    assert [count for name, count in counts.items() if name.startswith("also0/")] == [1] * len(whole)
    assert max(whole) > 1
    data.write_budget(tmp_path)
    manifest = str(tmp_path / "label_budget.also0.json")
    again = module(home, {"data": f"vspw:{home / 'vspw'}@train", "budget": manifest})
    assert [v.labelled for v in again.joined[0].videos] == [v.labelled for v in data.joined[0].videos]


def test_concatenation_is_uniform_over_clips(home: Path) -> None:
    """12 labelled frames of VSPW, 2 pictures of COCO and 2 of ADE: each once per pass of 16."""
    data = module(home, f"coco_stuff:{home / 'coco'}", f"ade20k:{home / 'ade'}@val", per="frame")
    seen = upcoming(data, 48)
    for start in range(0, 48, 16):
        count = Counter(name.split("/")[0] for name in seen[start : start + 16])
        assert count == {"train0": 3, "train1": 3, "train2": 3, "train3": 3, "also0": 2, "also1": 2}


def test_shares(home: Path) -> None:
    sources = DataSource(f"coco_stuff:{home / 'coco'}", share=0.25), f"ade20k:{home / 'ade'}@val"
    seen = upcoming(module(home, *sources), 320)
    count = Counter(name[:5] for name in seen)
    assert abs(count["also0"] - 80) <= 1
    # The rest, 240 clips, is one row: 4 videos of VSPW and 2 pictures of ADE.
    assert abs(count["also1"] - 80) <= 2
    assert abs(count["train"] - 160) <= 2


def test_classes_of_few_clips_come_more_often(home: Path) -> None:
    """car is in one of 4 videos: at t = 1 that video comes 2 times a pass, the others once."""
    seen = Counter(upcoming(module(home, repeat_threshold=1.0), 100))
    assert seen == {"train3": 40, **{f"train{n}": 20 for n in range(3)}}
    rare = Counter(upcoming(module(home, rare_class_temperature=0.1), 100))
    assert rare["train3"] > 45
    with pytest.raises(InputError, match="came both"):
        module(home, repeat_threshold=0.1, rare_class_temperature=0.1)


def test_class_counts_follow_the_budget_and_the_joined_sets(home: Path) -> None:
    alone = module(home, budget=1).class_counts
    assert {i: int(n) for i, n in enumerate(alone.pixels) if n} == {60: 1200, 66: 1140, 48: 60}
    assert alone.maps[[60, 66, 48]].tolist() == [4, 4, 1]
    # COCO's two pictures add 20 and 10 rows of person and 7 of car.
    joined = module(home, f"coco_stuff:{home / 'coco'}", budget=1).class_counts
    assert joined.pixels[[60, 66, 48]].tolist() == [1200 + 900, 1140, 60 + 210]
    assert joined.labelled[48] == 600 + 510
    # Frequencies 2400 pixels in 4 label maps: 0.5, 0.475 and 60/600 = 0.1.
    assert median_frequency(alone)[[60, 66, 48]] == pytest.approx([0.95, 1.0, 4.75])


# -- ranks and resuming ----------------------------------------------------------------------------------------------


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[tuple[str, ...], int]] = []

    def training_step(self, batch: Clip, index: int) -> torch.Tensor:
        self.seen.append((batch.videos, int(batch.images.sum())))
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def everything(home: Path) -> ClipDataModule:
    source = DataSource(f"coco_stuff:{home / 'coco'}", share=0.3, effective=0.5)
    data = module(home, source, f"ade20k:{home / 'ade'}@val", repeat_threshold=0.7, val_split=None)
    data.batches_per_epoch = 3
    return data


def fit(home: Path, folder: Path, steps: int, resume: Path | None = None) -> Recorder:
    model = Recorder()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=steps, default_root_dir=folder, enable_checkpointing=False, **quiet)
    trainer.fit(model, everything(home), ckpt_path=resume, weights_only=False)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return model


@pytest.mark.filterwarnings("ignore")
def test_training_on_several_sets_resumes_exactly(home: Path, tmp_path: Path) -> None:
    straight = fit(home, tmp_path, 10)
    first = fit(home, tmp_path, 4)
    second = fit(home, tmp_path, 10, tmp_path / "4.ckpt")
    assert first.seen + second.seen == straight.seen
    assert {"also0", "also1", "train"} <= {name[:5] for videos, _ in straight.seen for name in videos}


def test_two_ranks_see_what_one_process_sees(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = names(batches(everything(home), 8))
    shares = []
    for rank in range(2):
        monkeypatch.setattr(ClipDataModule, "_world", lambda self, rank=rank: (rank, 2))
        shares.append(names(batches(everything(home), 4)))
    assert [name for step in zip(*shares, strict=True) for name in step] == whole
