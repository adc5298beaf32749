"""The torchmetrics classes: order of batches, two processes, reset, pickling."""

from __future__ import annotations

import math
import pickle
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from everyframe.errors import InputError
from everyframe.metrics import functional as F
from everyframe.metrics.bootstrap import bootstrap_interval, class_sums
from everyframe.metrics.consistency import video_consistency
from everyframe.metrics.stateful import MeanIoU, SegmentationScores, VideoConsistency

K = 5


def made_videos() -> list[tuple[str, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    videos = []
    for i, frames in enumerate((6, 9, 4)):
        labels = torch.randint(0, K, (1, 7, 6), generator=generator).repeat(frames, 1, 1)
        labels[:, 0, 0] = 255
        noise = torch.rand(labels.shape, generator=generator) < 0.3
        preds = torch.where(noise, torch.randint(0, K, labels.shape, generator=generator), labels)
        videos.append((f"video {i}", preds.to(torch.uint8), labels.to(torch.uint8)))
    return videos


def scores(rank: int, world: int, port: int, out: str) -> None:
    """One process: its share of frames (scores) and videos (consistency), then the joined result."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    videos = made_videos()
    miou, all_scores, consistency = MeanIoU(K), SegmentationScores(K, resamples=50), VideoConsistency((2, 3))
    empty_here = VideoConsistency((2,))  # process 1 sees no video at all
    for number, (name, preds, labels) in enumerate(videos):
        mine = slice(rank, None, world)  # frames of one video on both processes
        miou.update(preds[mine], labels[mine])
        all_scores.update(preds[mine], labels[mine], name)
        if number % world == rank:
            consistency.update(preds, labels, name)
        if rank == 0:
            empty_here.update(preds, labels, name)
    result = {
        "miou": miou.compute(),
        **all_scores.compute(),
        **consistency.compute(),
        "empty": empty_here.compute()["VC2"],
    }
    miou.update(videos[0][1], videos[0][2])  # the state of this process is its own again after compute
    result["own"] = miou.confusion.sum()
    torch.save(result, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_numbers_of_one(tmp_path: object) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(scores, (2, port, str(tmp_path)), nprocs=2)
    videos = made_videos()
    one = SegmentationScores(K, resamples=50)
    for name, preds, labels in videos:
        one.update(preds, labels, name)
    want = one.compute()
    vc = video_consistency([(p, g) for _, p, g in videos], (2, 3))
    for rank in (0, 1):
        got = torch.load(f"{tmp_path}/{rank}.pt", weights_only=True)
        assert got["miou"] == want["mIoU [in-ground-truth]"]
        for title, value in want.items():
            assert got[title] == pytest.approx(value.item(), abs=1e-15), title
        assert {n: got[f"VC{n}"].item() for n in (2, 3)} == pytest.approx(vc, abs=1e-15)
        assert got["empty"].item() == pytest.approx(vc[2], abs=1e-15)
        frames = sum(len(p[rank::2]) for _, p, _ in videos) + len(videos[0][1])
        assert got["own"] == frames * (7 * 6 - 1)


def test_order_and_size_of_batches_do_not_matter() -> None:
    videos = made_videos()
    whole, shuffled = SegmentationScores(K), SegmentationScores(K)
    for name, preds, labels in videos:
        whole.update(preds, labels, name)
    frames = [(name, p, g) for name, preds, labels in videos for p, g in zip(preds, labels, strict=True)]
    for i in np.random.default_rng(0).permutation(len(frames)):
        shuffled.update(frames[i][1], frames[i][2], frames[i][0])
    a, b = whole.compute(), shuffled.compute()
    assert a.keys() == b.keys()
    assert all(a[title] == b[title] for title in a)


def test_scores_are_those_of_the_pure_functions() -> None:
    metric, miou = SegmentationScores(K, resamples=100, seed=3), MeanIoU(K, "union>0")
    matrices = []
    for name, preds, labels in made_videos():
        metric.update(preds, labels, name)
        miou(preds, labels)  # forward updates
        matrices.append(F.confusion_matrix(preds, labels, K))
    total, got = np.sum(matrices, axis=0), metric.compute()
    assert got["mIoU [in-ground-truth]"] == F.mean_iou(total)
    assert got["weighted IoU [in-ground-truth]"] == F.weighted_iou(total)
    assert got["mIoU [mean of videos]"] == pytest.approx(np.mean([F.mean_iou(m) for m in matrices]))
    assert miou.compute() == F.mean_iou(total, "union>0")
    _, per_video = metric.per_video()
    low, high = bootstrap_interval(per_video, class_sums(F.mean_iou), resamples=100, seed=3)
    assert (got["mIoU [in-ground-truth] low"], got["mIoU [in-ground-truth] high"]) == (low, high)
    assert low < got["mIoU [in-ground-truth]"] < high


@pytest.mark.parametrize("variant", ["correct", "vspw-script", "paper"])
def test_consistency_in_pieces(variant: str) -> None:
    metric = VideoConsistency((2, 3), variant)
    for name, preds, labels in made_videos():
        metric.update(preds[:3], labels[:3], name)
        metric.update(preds[3], labels[3], name)
        metric.compute()  # looking in between changes nothing
        metric.update(preds[4:], labels[4:], name)
    got = {int(key[2:]): value.item() for key, value in metric.compute().items()}
    assert got == video_consistency([(p, g) for _, p, g in made_videos()], (2, 3), variant)


def test_a_video_comes_in_one_piece() -> None:
    metric = VideoConsistency((2,))
    (a, preds, labels), (b, other_preds, other_labels), _ = made_videos()
    metric.update(preds, labels, a)
    metric.update(other_preds, other_labels, b)
    with pytest.raises(InputError, match="'video 0'"):
        metric.update(preds, labels, a)
    with pytest.raises(InputError, match="one shape"):
        metric.update(preds, labels[:2], b)


def test_reset_and_pickle() -> None:
    name, preds, labels = made_videos()[0]
    for metric in (MeanIoU(K), SegmentationScores(K), VideoConsistency((2,))):
        arguments = (preds, labels) if isinstance(metric, MeanIoU) else (preds, labels, name)
        metric.update(*arguments)
        before = metric.compute()
        assert pickle.loads(pickle.dumps(metric)).compute() == before
        metric.reset()
        metric.update(*arguments)
        assert metric.compute() == before


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_fed() -> None:
    assert math.isnan(MeanIoU(K).compute())
    assert math.isnan(VideoConsistency().compute()["VC8"])
    assert math.isnan(SegmentationScores(K).compute()["mIoU [mean of videos]"])
