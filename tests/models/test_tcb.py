"""Temporal context blending: averages over frames by hand, the memory as a list of frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Role
from everyframe.labels import LabelSpace
from everyframe.models.heads.ocr import OCRHead, gather_regions
from everyframe.models.heads.psp import PSPHead
from everyframe.models.temporal.base import Features
from everyframe.models.temporal.ring import Ring
from everyframe.models.temporal.tcb import Bank, PyramidBlending, RegionBlending
from everyframe.models.zoo import create_model

CHANNELS, STRIDES, K = (6, 8), (4, 8), 3
ADJACENT = [Role.ADJACENT] * 3


def maps(batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 6, 12, 14), torch.randn(batch, 8, 6, 7)


def test_regions_are_averaged_over_the_clip() -> None:
    head = OCRHead(CHANNELS, STRIDES, K, width=8, key_width=4).eval()
    temporal = RegionBlending(head)
    frames = [Features(m, temporal.embed(m, head)) for m in (maps() for _ in range(4))]
    embedding, _ = temporal(frames[-1], temporal.gather(frames[:-1], ADJACENT, head), head)
    want = torch.stack([head.embed(f.maps)["regions"] for f in frames]).mean(0)
    torch.testing.assert_close(embedding["regions"], want)
    assert torch.equal(embedding["pixels"], frames[-1].embedding["pixels"])


def test_copies_of_the_query_change_nothing() -> None:
    ocr = OCRHead(CHANNELS, STRIDES, K, width=8, key_width=4).eval()
    psp = PSPHead(CHANNELS, STRIDES, K, width=8).eval()
    m = maps()
    for head, temporal in ((ocr, RegionBlending(ocr)), (psp, PyramidBlending(psp, 8))):
        frame = Features(m, temporal.embed(m, head))
        with torch.no_grad():
            embedding, _ = temporal(frame, temporal.gather([frame] * 3, ADJACENT, head), head)
            torch.testing.assert_close(head.predict(embedding)["logits"], head(m))


def test_pooled_maps_are_averaged_and_the_query_gives_the_rest() -> None:
    head = PSPHead(CHANNELS, STRIDES, K, width=8).eval()
    temporal = PyramidBlending(head, 8)
    clip = [maps() for _ in range(4)]
    frames = [Features(m, temporal.embed(m, head)) for m in clip]
    with torch.no_grad():
        embedding, _ = temporal(frames[-1], temporal.gather(frames[:-1], ADJACENT, head), head)
        pooled = [torch.stack(level).mean(0) for level in zip(*(head.pyramid.pool(m[1]) for m in clip), strict=True)]
        want = head.bottleneck(head.pyramid.spread(clip[-1][1], pooled))
    torch.testing.assert_close(embedding["pixels"], want)
    assert set(embedding) == {"pixels"}


def test_frame_weights_meet_their_frames_and_sum_to_one() -> None:
    head = PSPHead(CHANNELS, STRIDES, K, width=8, bins=(1,))
    scores = torch.tensor([0.0, 1.0, 2.0])
    values = torch.tensor([10.0, 20.0, 40.0])
    pooled = torch.stack([values, scores], dim=1).view(1, 3, 1, 2)  # N T C (cells, score)
    corrected = PyramidBlending(head, 8, weighted=True)
    torch.testing.assert_close(corrected.blend(pooled).flatten(), (scores.softmax(0) @ values).view(1))
    published = PyramidBlending(head, 8, weighted=True, form="vspw")
    # The code's clip has the query first, its scores have the query last: weight i meets frame i - 1.
    want = (scores.softmax(0) @ torch.tensor([40.0, 10.0, 20.0])) / 3
    torch.testing.assert_close(published.blend(pooled).flatten(), want.view(1))


# -- memory -----------------------------------------------------------------------------------------------------------


def labelled_sets(*values: float) -> Tensor:
    """Region sets that are recognised by their value: [1, T, 1, 1]."""
    return torch.tensor(values).view(1, -1, 1, 1)


def remember(memory: str, frames: int, steps: list[list[float]]) -> list[list[float]]:
    """The sets that each step averages over."""
    head = OCRHead(CHANNELS, STRIDES, K, width=8, key_width=4)
    temporal = RegionBlending(head, memory=memory, memory_frames=frames)
    bank, used = None, []
    for step in steps:
        sets, bank = temporal.remember(bank, labelled_sets(*step), torch.tensor([False]))
        assert sets.of_scene.all()
        assert sets.mean().item() == pytest.approx(sets.sets.mean().item())
        used.append(sets.sets.flatten().tolist())
    return used


def test_fifo_keeps_the_latest_sets() -> None:
    steps = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert remember("fifo", 5, steps) == [[0, 1], [0, 1, 2, 3], [1, 2, 3, 4, 5]]
    assert remember("fifo", 1, steps) == [[1], [3], [5]]


def test_vspw_memory_is_what_the_code_does() -> None:
    """A list that is appended to after dropping the oldest while too long; copied, not kept, from the second call."""

    def code(memory_frames: int, steps: list[list[float]]) -> list[list[float]]:
        kept: list[float] = []
        used = []
        for i, step in enumerate(steps):
            own = list(kept)
            for value in step:
                while len(own) > memory_frames:
                    own.pop(0)
                own.append(value)
            if i == 0:
                kept = own
            used.append(list(own))
        return used

    steps = [[float(4 * i + j) for j in range(4)] for i in range(4)]
    for memory_frames in (2, 3, 5, 8):
        assert remember("vspw_compat", memory_frames, steps) == code(memory_frames, steps)


def test_a_new_scene_forgets() -> None:
    head = OCRHead(CHANNELS, STRIDES, K, width=8, key_width=4)
    temporal = RegionBlending(head, memory="fifo", memory_frames=5)
    bank = Bank.new(torch.cat([labelled_sets(1.0, 2.0, 3.0)] * 2))
    for step, cut, means in (
        ((7.0, 7.0), (True, False), (7.0, (1 + 2 + 3 + 7 + 7) / 5)),
        ((7.0, 8.0), (False, False), ((7 + 7 + 7 + 8) / 4, (3 + 7 + 7 + 7 + 8) / 5)),
        ((7.0, 9.0), (False, False), ((7 + 7 + 8 + 7 + 9) / 5, (7 + 7 + 8 + 7 + 9) / 5)),
    ):
        used, bank = temporal.remember(bank, torch.cat([labelled_sets(*step)] * 2), torch.tensor(cut))
        assert used.mean().flatten().tolist() == pytest.approx(means)


@pytest.mark.parametrize(("memory", "frames"), [("fifo", 20), ("fifo", 3), ("vspw_compat", 8), ("vspw_compat", 2)])
def test_after_a_cut_a_memory_of_any_length_is_that_of_a_new_video(memory: str, frames: int) -> None:
    head = OCRHead(CHANNELS, STRIDES, K, width=8, key_width=4)
    temporal = RegionBlending(head, memory=memory, memory_frames=frames)
    later = [[5.0, 5.0], [5.0, 6.0], [6.0, 7.0], [7.0, 8.0]]
    means = []
    for before in ([], [[1.0, 1.0], [1.0, 2.0], [2.0, 3.0]]):
        bank, got = None, []
        for i, step in enumerate([*before, *later]):
            cut = torch.tensor([bool(before) and i == len(before)])
            used, bank = temporal.remember(bank, labelled_sets(*step), cut)
            got.append(used.mean().item())
        means.append(got[len(before) :])
    assert means[0] == pytest.approx(means[1])


def test_stream_keeps_nine_frames_and_the_bank() -> None:
    model = create_model("tcb-ocr-memory-tiny", LabelSpace(("a", "b"))).eval()
    state = None
    frame = torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8)
    with torch.no_grad():
        for _ in range(12):
            _, state = model.step(frame, state)
    assert isinstance(state.ring, Ring)
    assert state.ring.frames.shape[:2] == (1, 9)
    assert state.bank.sets.shape[:2] == state.bank.of_scene.shape == (1, 8)


def test_regions_of_one_frame_are_those_of_ocrnet() -> None:
    head = OCRHead(CHANNELS, STRIDES, K, width=8, key_width=4).eval()
    embedding = head.embed(maps())
    torch.testing.assert_close(
        embedding["regions"],
        gather_regions(
            embedding["pixels"],
            torch.nn.functional.interpolate(
                embedding["auxiliary"], embedding["pixels"].shape[-2:], mode="bilinear", align_corners=False
            ),
        ),
    )


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="expected memory to be one of none, fifo, vspw_compat, came 'lifo'"):
        create_model("tcb-ocr-tiny", LabelSpace(("a", "b")), temporal={"memory": "lifo"})
    with pytest.raises(InputError, match="memory of one region set or more, came memory_frames 0"):
        create_model("tcb-ocr-tiny", LabelSpace(("a", "b")), temporal={"memory": "fifo", "memory_frames": 0})
    with pytest.raises(InputError, match=r"does not know this option: .*'memory'"):
        create_model("tcb-psp-tiny", LabelSpace(("a", "b")), temporal={"memory": "fifo"})
