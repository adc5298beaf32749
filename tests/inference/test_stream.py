from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from predictors import Fixed, Remember, video

from everyframe.errors import InputError
from everyframe.inference.stream import Stream, kept_mode
from everyframe.labels import LabelSpace


def test_labels_have_the_frames_size_and_the_state_is_kept() -> None:
    model, frames = Remember(), video(5, (33, 47))
    stream, state = Stream(model, "cpu"), None
    for frame in frames:
        with torch.no_grad():
            logits, state = model.step(frame.image[None], state)
        expected = F.interpolate(logits, (33, 47), mode="bilinear").argmax(1)[0]
        labels = stream.step(frame)
        assert labels.dtype == np.uint8
        assert (labels == expected.numpy()).mean() > 0.999
    assert stream.state.count == 5


def test_reset_forgets() -> None:
    stream, frames = Stream(Remember()), video(3)
    first = [stream.step(frame) for frame in frames]
    assert any((a != b).any() for a, b in zip(first, [stream.step(frame) for frame in frames], strict=True))
    stream.reset()
    assert all((a == b).all() for a, b in zip(first, [stream.step(frame) for frame in frames], strict=True))


def test_another_size_starts_anew_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(Remember())
    small, large = video(2, (32, 48)), video(1, (40, 40))
    stream.step(small[0])
    with caplog.at_level(logging.WARNING):
        assert stream.step(large[0]).shape == (40, 40)
    assert "starts anew" in caplog.text
    assert stream.state.count == 1


def test_restore_goes_on() -> None:
    frames = video(6)
    whole = Stream(Remember())
    expected = [whole.step(frame) for frame in frames]
    first, second = Stream(Remember()), Stream(Remember())
    for frame in frames[:3]:
        first.step(frame)
    second.restore(first.state, frames[0].size)
    assert all((second.step(frame) == labels).all() for frame, labels in zip(frames[3:], expected[3:], strict=True))


def test_model_is_put_into_eval_mode_and_keeps_no_gradient() -> None:
    model = Remember().train()
    stream = Stream(model)
    assert not model.training
    assert not stream.logits(video(1)[0]).requires_grad


def test_bfloat16_runs_under_autocast() -> None:
    class Inside(Remember):
        def step(self, frame, state=None):
            inside.append((torch.is_autocast_enabled("cpu"), self.map(torch.zeros(1, 6, 1, 1)).dtype))
            return super().step(frame, state)

    inside: list[tuple[bool, torch.dtype]] = []
    frame = video(1)[0]
    low, full = Stream(Inside(stride=1), "cpu", "bfloat16").step(frame), Stream(Inside(stride=1), "cpu").step(frame)
    assert inside == [(True, torch.bfloat16), (False, torch.float32)]
    assert (low == full).mean() > 0.97


def test_predictors_need_not_be_modules() -> None:
    assert (Stream(Fixed(torch.eye(3)[:, :, None])).step(video(1, (3, 3))[0]) == [[0] * 3, [1] * 3, [2] * 3]).all()


@pytest.mark.parametrize(("device", "dtype"), [("abacus", None), ("cpu", "int8"), ("cpu", "float16")])
def test_refuses_what_does_not_exist_here(device: str, dtype: str | None) -> None:
    with pytest.raises(InputError, match="expected"):
        Stream(Remember(), device, dtype)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_refuses_logits_of_other_classes(channels: int) -> None:
    model = Fixed(torch.zeros(channels, 3, 3))
    model.label_space = LabelSpace(("road", "car", "sky"))
    with pytest.raises(InputError, match=rf"Fixed.step: expected logits \[B, 3, h, w\].*came \[1, {channels}, 3, 3\]"):
        Stream(model, "cpu").step(video(1, (3, 3))[0])


def test_kept_mode_gives_every_module_its_own_back() -> None:
    def stops(model: torch.nn.Module) -> None:
        with kept_mode(model):
            model.eval()
            raise KeyError

    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout())
    model[0].eval()  # a frozen part
    with pytest.raises(KeyError):
        stops(model)
    assert [module.training for module in model.modules()] == [True, False, True]
    with kept_mode("a/folder"), kept_mode(None):
        pass
