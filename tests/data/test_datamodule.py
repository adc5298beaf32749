"""The data module and its loaders: shares of ranks, resuming, validation videos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.dataset import ClipDataset
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.layouts import load_split
from everyframe.data.loader import ClipLoader, ShardSampler, StreamSampler, world
from everyframe.data.sampling import ClipSampling
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.training.recipe import read_recipe, resolve


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write(SyntheticVideos(5, 6, (24, 32)), folder, "frames", "train")
    write(SyntheticVideos(3, 4, (24, 32), seed=1), folder, "frames", "val")
    return folder


def module(root: Path, **options: object) -> ClipDataModule:
    settings = {"budget": 1, "batch_size": 2, "crop": 16, "workers": 0, **options}
    return ClipDataModule(f"folder:{root}", **settings)


def names(loader: ClipLoader) -> list[tuple[str, ...]]:
    return [batch.videos for batch in loader]


# -- samplers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_the_stream_without_overlap_or_loss(ranks: int) -> None:
    whole = list(StreamSampler(10, 60, seed=3))
    shares = [list(StreamSampler(10, 60 // ranks, 3, rank, ranks)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert [key for step in zip(*shares, strict=True) for key in step] == whole
    for epoch in range(6):  # each pass holds every clip once
        assert sorted(i for e, i in whole if e == epoch) == list(range(10))
    assert whole[:10] != [(0, i) for _, i in whole[10:20]]


def test_validation_videos_go_to_exactly_one_rank_in_fair_shares() -> None:
    def video(name: str, frames: int) -> VideoRef:
        return VideoRef(name, tuple(FrameRef(i, str(i)) for i in range(frames)))

    videos = [video(str(n), n) for n in (5, 90, 10, 40, 30, 20)]
    shares = [list(ShardSampler(videos, rank, 2)) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == list(range(6))
    assert [sum(len(videos[i].frames) for i in share) for share in shares] == [100, 95]
    assert list(ShardSampler(videos[:1], 1, 2)) == []


def test_world_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert world() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert world() == (3, 4)


# -- loaders ---------------------------------------------------------------------------------------------------------


def loader(root: Path, **options: object) -> ClipLoader:
    videos, space = load_split(f"folder:{root}", "train")
    return ClipLoader(ClipDataset(videos, space, ClipSampling((), None)), batch_size=2, **options)


def test_iterations_go_on_where_the_last_one_ended(root: Path) -> None:
    clips = loader(root)
    assert len(clips) == 2
    passes = [name for _ in range(5) for batch in names(clips) for name in batch]
    assert len(passes) == 20
    for start in range(0, 20, 5):  # 5 videos in batches of 2: nothing is dropped
        assert len(set(passes[start : start + 5])) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_in_the_middle(root: Path, workers: int) -> None:
    straight = loader(root, batches=6)
    wanted = [(batch.videos, batch.images) for batch in straight]
    first = loader(root, batches=6, workers=workers)
    batches = iter(first)
    got = [next(batches) for _ in range(2)]
    state = first.state_dict()  # workers have read ahead by now
    second = loader(root, batches=6, workers=workers)
    second.load_state_dict(state)
    got += [batch for batch, _ in zip(second, range(4), strict=False)]
    assert [batch.videos for batch in got] == [videos for videos, _ in wanted]
    assert all(torch.equal(batch.images, images) for batch, (_, images) in zip(got, wanted, strict=True))


def test_two_ranks_continue_a_run_of_one(root: Path) -> None:
    one = loader(root, batches=2)
    list(one)
    shares = [names(loader(root, batches=1, rank=r, ranks=2, start=one.state_dict()["position"])) for r in range(2)]
    wanted = [name for batch in names(one) for name in batch]
    assert [name for step in zip(*(share[0] for share in shares), strict=True) for name in step] == wanted


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_one_clear_line_also_from_a_worker(tmp_path: Path, workers: int) -> None:
    folder = write(SyntheticVideos(1, 2, (24, 32)), tmp_path, "frames")
    for picture in folder.glob("videos/*/*.jpg"):
        picture.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"10 bytes that do not decode") as raised:
        next(iter(loader(folder, workers=workers)))
    assert "\n" not in str(raised.value)


def test_batch_size_zero_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match="batch_size"):
        module(root, batch_size=0).train_dataloader()


# -- the module ------------------------------------------------------------------------------------------------------


def test_label_space_before_setup_and_budget_beside_the_run(root: Path, tmp_path: Path) -> None:
    data = module(root)
    assert data.label_space.names == SyntheticVideos.label_space.names
    assert [len(video.labelled) for video in data.train_videos] == [1] * 5
    manifest = data.write_budget(tmp_path / "run")
    assert json.loads(manifest.read_text())["labels"] == 5
    again = module(root, budget=str(manifest))
    assert [v.labelled for v in again.train_videos] == [v.labelled for v in data.train_videos]


def test_validation_gives_whole_videos_with_all_labels(root: Path) -> None:
    videos = list(module(root).val_dataloader())
    assert [type(video) for video in videos] == [VideoRef] * 3
    assert [len(video.labelled) for video in videos] == [4] * 3
    assert module(root, val_split=None).val_dataloader() == []


def test_videos_are_not_moved_but_clips_are(root: Path) -> None:
    data = module(root)
    video = data.val_videos[0]
    assert data.transfer_batch_to_device(video, torch.device("cpu"), 0) is video
    clip = next(iter(data.train_dataloader()))
    assert isinstance(data.transfer_batch_to_device(clip, torch.device("meta"), 0), Clip)


def test_other_classes_in_the_validation_split_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(root)
    videos, space = load_split(f"folder:{root}", "val")
    other = type(space)(("a", "b"))
    monkeypatch.setattr("everyframe.data.datamodule.load_split", lambda spec, split: (videos, other))
    data._split = (videos, space)
    with pytest.raises(InputError, match="expected the classes of split 'train'"):
        _ = data.val_videos


def test_each_split_is_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(root, unlabeled=[f"folder:{root}@val"])
    listed: list[str] = []
    load = load_split
    monkeypatch.setattr(
        "everyframe.data.datamodule.load_split", lambda spec, split: (listed.append(split), load(spec, split))[1]
    )
    for _ in range(2):
        assert len(data.val_videos) == 3
        assert len(data.hidden_videos or ()) == 5
    assert sorted(listed) == ["train", "train", "val"]  # as the budget leaves it, and whole
    assert data.unlabeled_videos is data.unlabeled_videos


def test_unlabelled_clips_come_beside_the_labelled_ones(root: Path, tmp_path: Path) -> None:
    extra = write(SyntheticVideos(2, 3, (24, 32), seed=5), tmp_path / "a@b", "frames", "val")
    write(SyntheticVideos(1, 3, (24, 32), seed=6), tmp_path / "a@b", "frames", "train")
    data = module(root, unlabeled=[f"folder:{extra}@val", f"folder:{extra}"], unlabeled_batch_size=3)
    assert [video.name for video in data.unlabeled_videos] == [
        "unlabeled0/street5_000", "unlabeled0/street5_001", "unlabeled1/street6_000",
    ]  # fmt: skip
    batches = [batch for batch, _, _ in data.train_dataloader()]
    assert len(batches) == 2
    assert all(batch["labelled"].images.shape[0] == 2 for batch in batches)
    assert all(batch["unlabelled"].images.shape[0] == 3 for batch in batches)
    assert not any(batch["unlabelled"].labelled[:, batch["unlabelled"].roles.index("query")].any() for batch in batches)
    more = [batch for _ in range(6) for batch, _, _ in data.train_dataloader()]
    seen = {name for batch in [*batches, *more] for name in batch["unlabelled"].videos}
    assert len(seen) == 8


def test_the_companion_frame_is_drawn_anew_each_epoch_and_alike_in_each_run(root: Path) -> None:
    """ETC: the labelled frame is number 3 of 6, and its companion lies at 3 - stride where that is inside."""

    def drawn(seed: int) -> list[tuple[int, ...]]:
        frames = {"adjacent": (), "reference": None, "queries": 2, "stride": [1, 2, -1, -2, -3]}
        batches = module(root, budget_frame="middle", seed=seed, **frames).train_dataloader()
        return [tuple(pair) for _ in range(20) for batch in batches for pair in batch.indices.tolist()]

    assert set(drawn(0)) == {(2, 3), (1, 3), (4, 3), (5, 3), (3, 0)}  # 3 + 3 is outside: the pair moves by a stride
    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize(
    ("name", "strides"),
    [("etc-ocr-swin-small", [1, 2, -1, -2, -3]), ("etc-ocr-resnet101", [1, 2, -1, -2, -3]), ("etc-ocr-tiny", 1)],
)
def test_etc_at_published_scale_draws_its_companion_frame(root: Path, name: str, strides: object) -> None:
    config = resolve(read_recipe(name), {"data.data": f"folder:{root}", "out": "x"}, name)
    assert (config["data"]["queries"], config["data"]["stride"]) == (2, strides)


class Recorder(LightningModule):
    """Writes down which clips it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[tuple[str, ...], int]] = []
        self.videos: list[str] = []

    def training_step(self, batch: Clip, index: int) -> torch.Tensor:
        self.seen.append((batch.videos, int(batch.images.sum())))
        return self.weight * 1.0

    def validation_step(self, batch: VideoRef, index: int) -> None:
        self.videos.append(batch.name)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(root: Path, folder: Path, steps: int, resume: Path | None = None, **options: object) -> Recorder:
    seed_everything(0, verbose=False)
    model = Recorder()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=steps, default_root_dir=folder, enable_checkpointing=False, **quiet)
    trainer.fit(model, module(root, **options), ckpt_path=resume, weights_only=False)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [3, 4])
def test_training_resumes_exactly_in_and_after_an_epoch(root: Path, tmp_path: Path, stop: int) -> None:
    """Epochs of 2 batches: step 3 is in the middle of one, step 4 at the end of one."""
    straight = fit(root, tmp_path, 8)
    assert len(straight.videos) >= 3 * 3
    first = fit(root, tmp_path, stop)
    second = fit(root, tmp_path, 8, tmp_path / f"{stop}.ckpt")
    assert first.seen + second.seen == straight.seen
    assert len(straight.seen) == 8
