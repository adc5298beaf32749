"""Offline prediction equals the test clip around each frame, and keeps few frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from everyframe.data.sampling import ClipSampling
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.offline import NEAR_FIRST, Offline, offline_logits
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("a", "b", "c"))


def build(name: str, adjacent: tuple[int, ...]) -> Segmenter:
    shape = {"backbone": {"width": 8, "stem_width": 8}, "head": {"width": 16}}
    return create_model(name, SPACE, temporal={"adjacent": adjacent}, **shape).eval()


def clip_by_clip(model: Segmenter, video: Tensor, reference: str | None, offline: bool) -> list[Tensor]:
    sampling = ClipSampling(model.temporal.adjacent, reference)
    found = [sampling.test(len(video), q, offline) for q in range(len(video))]
    with torch.no_grad():
        return [model(video[list(c.indices)][None], c.roles).logits[0] for c in found]


@pytest.mark.parametrize("adjacent", [(-3, 3), (-2, -1, 1, 2), (-6, -3), (2, 4)])
@pytest.mark.parametrize("frames", [1, 3, 13])
def test_equals_the_clip_around_each_frame(adjacent: tuple[int, ...], frames: int) -> None:
    video = torch.randint(0, 256, (frames, 3, 24, 32), dtype=torch.uint8)
    ssltm, tcb = build("ssltm-tiny", adjacent), build("tcb-psp-tiny", adjacent)
    for model, reference in ((ssltm, "first"), (tcb, None)):
        got = list(offline_logits(model, (x[None] for x in video)))
        want = clip_by_clip(model, video, reference, offline=False)
        torch.testing.assert_close(torch.cat(got), torch.cat(want), rtol=1e-4, atol=1e-5)


def test_first_frames_take_the_last_one_as_reference() -> None:
    video = torch.randint(0, 256, (NEAR_FIRST + 3, 3, 24, 32), dtype=torch.uint8)
    model = build("ssltm-tiny", (-1, 1))
    got = list(offline_logits(model, (x[None] for x in video), last=video[-1:]))
    want = clip_by_clip(model, video, "first", offline=True)
    torch.testing.assert_close(torch.cat(got), torch.cat(want), rtol=1e-4, atol=1e-5)


def test_each_frame_is_encoded_once_and_answers_come_as_soon_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("ssltm-tiny", (-3, 2))
    encoded = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda x: encoded.append(len(encoded)) or encode(x))
    answers = offline_logits(model, (torch.full((1, 3, 16, 16), 10 * i, dtype=torch.uint8) for i in range(6)))
    seen = [len(encoded) for _ in answers]
    assert seen == [3, 4, 5, 6, 6, 6]


def test_state_stays_as_large_as_it_is() -> None:
    model = build("ssltm-tiny", (-2, 1))
    offline, state, sizes = Offline(model), None, []
    with torch.no_grad():
        for _ in range(12):
            _, state = offline.step(torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8), state)
            sizes.append(sum(x.numel() for x in pytree.tree_leaves(state) if isinstance(x, Tensor)))
    assert sizes[0] < sizes[3] < sizes[4]  # the preview, then the frames in reach
    assert set(sizes[4:]) == {sizes[4]}
    assert "1 frames after it" in offline.describe()
    assert "6 frames are kept" in offline.describe()


def test_recurrent_modules_are_refused() -> None:
    model = create_model("ocr-gru-tiny", SPACE).eval()
    with pytest.raises(InputError, match="fixed distances, such as SSLTM or TCB, came ConvGRU"):
        next(offline_logits(model, []))
