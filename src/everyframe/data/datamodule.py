"""The Lightning shell around the data: everything a recipe says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from everyframe.data.balance import Balance
from everyframe.data.budget import apply_budget, write_manifest
from everyframe.data.dataset import ClipDataset, ReferenceCrop
from everyframe.data.focus import Focus
from everyframe.data.joining import DataSource, Joined, clip_order, join_source
from everyframe.data.label_counts import LabelCounts, cache_file, count_parts
from everyframe.data.layout import Split, VideoRef, in_space
from everyframe.data.layouts import load_split, parse_spec
from everyframe.data.listing import NoSuchSplit
from everyframe.data.loader import ClipLoader, video_loader, world
from everyframe.data.ordering import ClipOrder
from everyframe.data.photometric import Photometric
from everyframe.data.pseudo_labels import with_pseudo_labels
from everyframe.data.sampling import Anchor, ClipSampling, Per, Reference
from everyframe.data.transforms import Geometry
from everyframe.data.unlabelled import unlabelled_videos
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.losses.class_weights import ClassCounts


class TrainingData(LightningDataModule):
    """What training asks of a data module beside its loaders.

    Attributes:
        batches_per_epoch: how many batches the training loader gives; `everyframe.training.run.train` sets it.
    """

    batches_per_epoch: int | None

    @property
    def val_videos(self) -> Sequence[VideoRef]:
        """What the validation loader gives; none: there is no validation."""
        return ()


class ClipDataModule(TrainingData):
    """Training clips and validation videos.

    Training gives a `Clip` batch per step; with `unlabeled_batch_size`, a dict of two: "labelled" and "unlabelled".
    Validation gives one `VideoRef` per step and leaves the decoding to the `Stream` that also predicts; every video
    goes to exactly one rank.

    Args:
        data: layout and root, "vspw:/data/VSPW_480p"; a bare path is a folder of the user's own.
        train_split: split to train on.
        val_split: split to validate on, whole videos with all their labels; None: no validation.
        budget: labels that training may see: labels per video (1), a share ("1/8"), "all", or a manifest file.
        budget_frame: which frames keep their label: "hash" of the name, "first", "middle" or "random".
        also: more data sets to train on, their classes mapped onto those of `data`: "LAYOUT:ROOT@SPLIT" or what
            `DataSource` takes. Validation stays that of `data`.
        focus: classes to tell apart, in this order; all others are one class, `everyframe.data.focus.REST`. None named:
            all classes of the data. What `also` holds is read in all classes first; `pseudo_labels` may hold either.
        unlabeled: more videos, read without labels: a folder of video files or of folders of pictures, "LAYOUT:ROOT" or
            "LAYOUT:ROOT@SPLIT" (default: `train_split`).
        batch_size: labelled clips per step and process.
        unlabeled_batch_size: unlabelled clips per step and process; 0: supervised training. Their queries are the
            frames without a label of the training videos and of `unlabeled`, and their colours are left as they are.
        hidden_labels: carry the labels that the budget hides beside the unlabelled clips (`Clip.hidden`), to measure
            pseudo-labels by; no loss sees them.
        pseudo_labels: folder of label maps for frames that have none, see `with_pseudo_labels`; they train like labels.
        adjacent: offsets of the adjacent frames, see `ClipSampling`, as are the next five.
        reference: distant frame: "far_end", "first", "random", a distance in frames, or None.
        queries: query frames per clip.
        stride: frames from one query to the next; of several one is drawn for each clip.
        anchor: where in the queries the labelled frame lies.
        mirror: turn time around for every second clip.
        crop: side of the square crop, or (H, W).
        scale: range of the random resize.
        base: short side that scale 1 gives, also in validation; None: as the frames are.
        cat_max_ratio: largest share of one class in a crop.
        flip: probability of the horizontal flip.
        reference_crop: "same": the reference frame is cut like the others; "own": by a draw of its own.
        photometric: change colours.
        per: one clip per "video" and epoch, or every labelled "frame".
        repeat_threshold: clips of classes that fewer than this share of the clips hold come more often, see
            `repeat_factors`; 0: off.
        rare_class_temperature: draw classes first, rare ones more often, see `rare_class_factors`; 0: off.
        batches_per_epoch: length of an epoch in steps; None: one pass over the labelled clips.
        workers: processes that read ahead, per training process.
        seed: of the budget, the order and all augmentation.
    """

    def __init__(
        self,
        data: str,
        train_split: str = "train",
        val_split: str | None = "val",
        budget: str | int = "all",
        budget_frame: str = "hash",
        also: Sequence[DataSource | str] = (),
        focus: Sequence[str] = (),
        unlabeled: Sequence[str] = (),
        batch_size: int = 8,
        unlabeled_batch_size: int = 0,
        hidden_labels: bool = True,
        pseudo_labels: str | None = None,
        adjacent: Sequence[int] = (-3, 3),
        reference: Reference = "far_end",
        queries: int = 1,
        stride: int | Sequence[int] = 1,
        anchor: Anchor = "last",
        mirror: bool = False,
        crop: int | tuple[int, int] = 480,
        scale: tuple[float, float] = (0.5, 2.0),
        base: int | None = None,
        cat_max_ratio: float = 0.75,
        flip: float = 0.5,
        reference_crop: ReferenceCrop = "same",
        photometric: bool = True,
        per: Per = "video",
        repeat_threshold: float = 0.0,
        rare_class_temperature: float = 0.0,
        batches_per_epoch: int | None = None,
        workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.data, self.train_split, self.val_split = data, train_split, val_split
        self.budget, self.budget_frame, self.unlabeled = budget, budget_frame, tuple(unlabeled)
        self.batch_size, self.unlabeled_batch_size = batch_size, unlabeled_batch_size
        self.hidden_labels, self.pseudo_labels = hidden_labels, pseudo_labels
        self.also = tuple(DataSource.of(source) for source in also)
        self.focus = tuple(focus)
        strides = stride if isinstance(stride, int) else tuple(stride)
        self.sampling = ClipSampling(tuple(adjacent), reference, queries, strides, anchor, mirror)
        self.geometry = Geometry(crop, scale, base, cat_max_ratio, flip)
        self.reference_crop = reference_crop
        self.photometric = Photometric() if photometric else None
        self.per, self.batches_per_epoch, self.workers, self.seed = per, batches_per_epoch, workers, seed
        self.balance = Balance(repeat_threshold, rare_class_temperature)
        self._split: Split | None = None
        self._labels_found = 0
        self._joined: list[Joined] | None = None
        self._loaders: dict[str, ClipLoader] = {}
        self._positions: dict[str, dict[str, Any]] = {}

    # -- what the data are -------------------------------------------------------------------------------------------

    @property
    def label_space(self) -> LabelSpace:
        """The classes, known before `setup` so that the model can be built for them."""
        return self._train()[1] if self._focus is None else self._focus.space

    @property
    def short_side(self) -> int | None:
        """Pixels of the frames' short side before their random scale, which the model remembers; None: their own."""
        return self.geometry.base

    @property
    def train_videos(self) -> list[VideoRef]:
        """Training videos with the labels that the budget leaves them."""
        return self._focused(self._train()[0])

    @cached_property
    def val_videos(self) -> list[VideoRef]:
        """Validation videos with all their labels.

        Raises:
            InputError: there is no such split, or its classes are not those of the training split.
        """
        if self.val_split is None:
            return []
        try:
            videos, space = load_split(self.data, self.val_split)
        except NoSuchSplit as error:
            without = "or train without validation: --data.val_split null"
            raise InputError(f"{error.what}; {error.make}, {without}") from None
        whole = self._train()[1]
        if space.names != whole.names:
            raise InputError(
                f"{self.data}: expected the classes of split {self.train_split!r} in split {self.val_split!r} "
                f"({len(whole)} classes), came {len(space)} others: {', '.join(space.names[:5])}…"
            )
        return self._focused(in_space((videos, space), whole))

    @cached_property
    def unlabeled_videos(self) -> list[VideoRef]:
        """The videos of `unlabeled`, without labels, see `unlabelled_videos`."""
        return unlabelled_videos(self.unlabeled, self.train_split)

    @cached_property
    def hidden_videos(self) -> list[VideoRef] | None:
        """The training videos with the labels that the budget hides too; None when it hides none, or without leave."""
        if not self.hidden_labels:
            return None
        whole, _ = load_split(self.data, self.train_split)
        seen = [video.labelled for video in self.train_videos]
        return None if [video.labelled for video in whole] == seen else self._focused(whole)

    @property
    def joined(self) -> list[Joined]:
        """The data sets of `also`, read, mapped and filtered."""
        if self._joined is None:
            target = parse_spec(self.data)[0], self._train()[1]
            sources = [join_source(source, target, number) for number, source in enumerate(self.also)]
            self._joined = [replace(source, videos=self._focused(source.videos)) for source in sources]
        return self._joined

    @property
    def labelled_videos(self) -> list[VideoRef]:
        """What the labelled clips come from: the training videos, all that `pseudo_labels` labels, then `joined`."""
        return [video for videos, _ in self._labelled() for video in videos]

    @property
    def class_counts(self) -> ClassCounts:
        """How often each class occurs in the label maps of `labelled_videos`, what class weights are made of."""
        return ClassCounts.of(self._label_counts().pixels)

    def write_budget(self, folder: str | Path) -> Path:
        """Write which frames keep their label to `folder/label_budget.json`, a file that `budget` reads; return it.

        Those of `also` go into files of their own, `label_budget.also0.json` and so on, for `DataSource.budget`.
        """
        path = Path(folder) / "label_budget.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(self.train_videos, path)
        for number, source in enumerate(self.joined):
            write_manifest(source.videos, path.with_name(f"label_budget.also{number}.json"))
        return path

    @property
    def hidden_label_count(self) -> int:
        """How many labelled frames of the training split the budget hides."""
        seen = sum(len(video.labelled) for video in self.train_videos)
        return self._labels_found - seen

    def _train(self) -> Split:
        if self._split is None:
            videos, space = load_split(self.data, self.train_split)
            self._labels_found = sum(len(video.labelled) for video in videos)
            self._split = apply_budget(videos, self.budget, which=self.budget_frame, seed=self.seed), space
        return self._split

    @cached_property
    def _focus(self) -> Focus | None:
        return Focus.on(self._train()[1], self.focus) if self.focus else None

    def _focused(self, videos: list[VideoRef]) -> list[VideoRef]:
        return videos if self._focus is None else self._focus.videos(videos)

    def _labelled(self) -> list[tuple[list[VideoRef], Path]]:
        """Labelled videos of the main data set and of each joined one, with the file that keeps their counts."""
        own = self.train_videos
        if self.pseudo_labels is not None:
            videos = [*own, *self.unlabeled_videos]
            own = with_pseudo_labels(videos, self.pseudo_labels, self.label_space, self._focus)
        cache = cache_file(parse_spec(self.data)[1])
        return [(own, cache), *((source.videos, source.cache) for source in self.joined)]

    def _label_counts(self) -> LabelCounts:
        return count_parts(self._labelled(), self.label_space)

    # -- Lightning ---------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Count what has to be counted in one process of each machine; the others then find the counts."""
        _ = self.class_counts if self.balance else self.joined

    def train_dataloader(self) -> ClipLoader | CombinedLoader:
        """Return the stream of training clips, where it stands."""
        dataset = self._dataset(self.labelled_videos, self.photometric, per=self.per, seed=self.seed)
        factors = self.balance.factors(dataset.clips, self._label_counts()) if self.balance else None
        order = clip_order(dataset, self.joined, factors)
        labelled = self._loader("labelled", dataset, self.batch_size, self.batches_per_epoch, order)
        if not self.unlabeled_batch_size:
            return labelled
        extra, whole = self.unlabeled_videos, self.hidden_videos
        hidden = None if whole is None else [*whole, *extra]
        # Of the same seed, clips of equal epoch and position would share their draws with the labelled ones.
        pool = self._dataset([*self.train_videos, *extra], None, which="unlabelled", seed=self.seed + 1, hidden=hidden)
        unlabelled = self._loader("unlabelled", pool, self.unlabeled_batch_size, len(labelled))
        return CombinedLoader({"labelled": labelled, "unlabelled": unlabelled}, "min_size")

    def val_dataloader(self) -> DataLoader[VideoRef | None] | list[Any]:
        """Return this rank's validation videos, see `video_loader`."""
        videos = self.val_videos
        return video_loader(videos, *self._world()) if videos else []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move clips; videos are paths and stay as they are."""
        if batch is None or isinstance(batch, VideoRef):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        """Return the positions of the training streams; Lightning puts them into every checkpoint."""
        return self._positions | {name: loader.state_dict() for name, loader in self._loaders.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the positions, whether or not the loaders exist yet."""
        self._positions = dict(state_dict)
        for name, state in state_dict.items():
            if name in self._loaders:
                self._loaders[name].load_state_dict(state)

    def _dataset(self, videos: Sequence[VideoRef], photometric: Photometric | None, **options: Any) -> ClipDataset:
        options["reference_crop"] = self.reference_crop
        return ClipDataset(videos, self.label_space, self.sampling, self.geometry, photometric, **options)

    def _loader(
        self, name: str, dataset: ClipDataset, batch_size: int, batches: int | None, order: ClipOrder | None = None
    ) -> ClipLoader:
        rank, ranks = self._world()
        loader = ClipLoader(
            dataset,
            batch_size,
            batches,
            rank,
            ranks,
            workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            order=order,
        )
        state = self.state_dict().get(name)
        if state is not None:
            loader.load_state_dict(state)
        self._loaders[name] = loader
        return loader

    def _world(self) -> tuple[int, int]:
        trainer = getattr(self, "trainer", None)
        return world() if trainer is None else (trainer.global_rank, trainer.world_size)
