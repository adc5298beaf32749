"""Flow backends on pictures that move by a known amount, and the sampling of labels along flow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from everyframe.errors import InputError
from everyframe.flow import batch_flow, checked_pair, open_flow
from everyframe.metrics.flow import DISFlow, FlowPair, GivenFlow, RAFTFlow, checked_flow, follow, visible


def constant_flow(x: float, y: float, height: int = 6, width: int = 8) -> np.ndarray:
    return np.stack([np.full((height, width), x), np.full((height, width), y)]).astype(np.float32)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    import cv2

    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))


def test_zero_flow_changes_nothing() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (6, 8)).astype(np.uint8)
    moved, inside = follow(labels, constant_flow(0, 0))
    assert (moved == labels).all()
    assert inside.all()


def test_follow_by_hand() -> None:
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    moved, inside = follow(labels, constant_flow(2.4, -1))  # rounds to (2, -1)
    assert (moved[1:, :-2] == labels[:-1, 2:]).all()
    assert inside.sum() == 5 * 6
    assert not inside[0].any()
    assert not inside[:, -2:].any()


def test_pixels_that_do_not_come_back_are_occluded() -> None:
    forward, backward = constant_flow(1, 0), constant_flow(-1, 0)
    backward[0, 2, 3] = 3.0  # the pixel (2, 2) lands here and would go elsewhere on the way back
    seen = visible(FlowPair(forward, backward))
    assert not seen[2, 2]
    assert seen.sum() == 6 * 7 - 1
    assert visible(FlowPair(forward)).sum() == 6 * 7  # without the flow back only the border tells


def test_dis_finds_a_shift() -> None:
    big = textured(96, 128)
    first, second = (torch.from_numpy(np.ascontiguousarray(big[8:88, s : s + 100])).permute(2, 0, 1) for s in (10, 7))
    pair = DISFlow().between(first, second)
    assert pair.forward.shape == (2, 80, 100)
    assert pair.forward.dtype == np.float32
    inner = np.s_[:, 10:-10, 10:-10]
    assert np.median(pair.forward[inner][0]) == pytest.approx(3, abs=0.1)
    assert np.median(pair.forward[inner][1]) == pytest.approx(0, abs=0.1)
    assert np.median(pair.backward[inner][0]) == pytest.approx(-3, abs=0.1)
    assert visible(pair)[10:-10, 10:-10].mean() > 0.95
    again = DISFlow(backward=False).between(first, second)
    assert again.backward is None
    assert (again.forward == pair.forward).all()


def test_dis_preset() -> None:
    with pytest.raises(InputError, match="ultrafast, fast, medium"):
        DISFlow("slow")  # type: ignore[arg-type]


def test_given_flow_comes_in_order() -> None:
    picture = torch.zeros(3, 6, 8, dtype=torch.uint8)
    flow = GivenFlow([constant_flow(1, 0), constant_flow(2, 0)], [constant_flow(-1, 0), constant_flow(-2, 0)])
    assert flow.between(picture, picture).forward[0, 0, 0] == 1
    second = flow.between(picture, picture)
    assert second.forward[0, 0, 0] == 2
    assert second.backward is not None
    assert second.backward[0, 0, 0] == -2
    with pytest.raises(InputError, match="too few"):
        flow.between(picture, picture)


def test_flow_is_checked() -> None:
    with pytest.raises(InputError, match=r"expected \[2, 5, 8\] like the frames, x then y, came \[2, 6, 8\]"):
        checked_flow(constant_flow(0, 0), (5, 8))
    with pytest.raises(InputError, match="NaN"):
        checked_flow(constant_flow(np.nan, 0), (6, 8))


def test_what_between_returns_is_checked() -> None:
    flow = constant_flow(1, 0)
    pair = checked_pair(FlowPair(torch.from_numpy(flow).double(), -flow), (6, 8))  # type: ignore[arg-type]
    assert pair.forward.dtype == np.float32
    assert (pair.forward == flow).all()
    with pytest.raises(InputError, match="expected a FlowPair from between, came ndarray"):
        checked_pair(flow, (6, 8))
    with pytest.raises(InputError, match=r"came \[6, 8, 2\]"):
        checked_pair(FlowPair(flow, flow.transpose(1, 2, 0)), (6, 8))
    frames = torch.zeros(1, 3, 6, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match="came NaN"):
        batch_flow(GivesBack(FlowPair(constant_flow(np.nan, 0))), frames, frames)


class GivesBack:
    def __init__(self, what: object) -> None:
        self.between = lambda first, second: what


def test_objects_without_between_are_refused() -> None:
    for wrong, came in ((object(), "object without it"), (DISFlow, "the class DISFlow"), (None, "NoneType without it")):
        with pytest.raises(InputError, match=rf"between\(first, second\), came {came}"):
            open_flow(wrong)  # type: ignore[arg-type]


def test_raft_runs_torchvision_from_a_local_file(tmp_path: Path) -> None:
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    network = raft_small(weights=None).eval()
    file = tmp_path / "raft.pth"
    torch.save(network.state_dict(), file)
    first, second = (torch.from_numpy(textured(60, 131, seed)).permute(2, 0, 1) for seed in (0, 1))
    flow = RAFTFlow(file, "small", updates=2)
    assert flow._network is None  # built at the first pair
    pair = flow.between(first, second)
    assert pair.forward.shape == (2, 60, 131)
    a, b = (
        torch.nn.functional.pad(x[None].float() / 127.5 - 1, (0, 5, 0, 68), mode="replicate") for x in (first, second)
    )
    with torch.no_grad():
        ahead, back = (network(*order, num_flow_updates=2)[-1][0, :, :60, :131].numpy() for order in ((a, b), (b, a)))
    assert np.allclose(pair.forward, ahead, atol=1e-3)
    assert np.allclose(pair.backward, back, atol=1e-3)


def test_raft_says_what_is_wrong_with_the_weights(tmp_path: Path) -> None:
    picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
    with pytest.raises(InputError, match="found no file"):
        RAFTFlow(tmp_path / "none.pth").between(picture, picture)
    wrong = tmp_path / "wrong.pth"
    torch.save({"a": torch.zeros(1)}, wrong)
    with pytest.raises(InputError, match="expected the state dict of torchvision's raft_small"):
        RAFTFlow(wrong, "small").between(picture, picture)
    with pytest.raises(InputError, match="large"):
        RAFTFlow(size="huge")  # type: ignore[arg-type]


def test_threads_share_an_estimator() -> None:
    """An OpenCV engine that two threads use at once ends the process, so this one has one for each."""
    code = """
import threading, numpy as np, torch
from everyframe.flow import DISFlow
flow = DISFlow()
torch.manual_seed(0)
pairs = [torch.randint(0, 255, (2, 3, 96, 128), dtype=torch.uint8) for _ in range(2)]
alone = [flow.between(*pair).forward for pair in pairs]
def work(i):
    for _ in range(25):
        assert np.array_equal(flow.between(*pairs[i]).forward, alone[i])
    done.append(i)
done = []
threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert sorted(done) == [0, 1]
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
