"""Class prototypes: filled by the first means, moved in closed form, alike on one process and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from host_copies import HostCopies
from torch import Tensor
from torch import multiprocessing as mp

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.temporal.prototypes import CategoryPrototypes
from everyframe.models.zoo import create_model


def frame(*values: float, channels: int = 2) -> tuple[Tensor, Tensor]:
    """Pixels [1, D, 4, 4 * classes] and labels: class c covers 4 columns with the value of `values[c]`."""
    columns = torch.tensor(values).repeat_interleave(4)
    pixels = columns.expand(1, channels, 4, -1) * torch.arange(1, channels + 1).view(1, -1, 1, 1)
    labels = torch.arange(len(values), dtype=torch.uint8).repeat_interleave(4).expand(1, 4, -1)
    return pixels.contiguous(), labels.contiguous()


def test_class_means_ignore_void_and_small_classes() -> None:
    prototypes = CategoryPrototypes(3, 2)
    pixels, labels = frame(1.0, 5.0)
    labels = labels.clone()
    labels[0, 0] = 255
    labels[0, 1, 4:7] = 2  # three cells: too few
    means, seen = prototypes.class_means(pixels, labels)
    assert seen.tolist() == [[True, True, False]]
    torch.testing.assert_close(means[0, :2], torch.tensor([[1.0, 2.0], [5.0, 10.0]]))


def test_labels_are_read_at_the_centres_of_cells() -> None:
    prototypes = CategoryPrototypes(2, 1, least_pixels=1)
    labels = torch.zeros(1, 6, 6, dtype=torch.uint8)
    labels[0, 1::3, 1::3] = 1  # the centre of each 3x3 block alone
    means, seen = prototypes.class_means(torch.arange(4.0).view(1, 1, 2, 2), labels)
    assert seen.tolist() == [[False, True]]
    assert means[0, 1].item() == 1.5


def test_first_means_fill_the_slots_and_later_ones_move_the_nearest() -> None:
    prototypes = CategoryPrototypes(2, 2, per_class=2)
    assert not prototypes.filled.any()
    for value in (1.0, 1.0, 3.0):  # the second is the same mean again: it fills nothing
        assert prototypes.observe(*frame(value)).item() == 0
    assert prototypes.filled.tolist() == [[True, True], [False, False]]
    torch.testing.assert_close(prototypes.prototypes[0].detach(), torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    loss = prototypes.observe(*frame(3.5))
    torch.testing.assert_close(loss, torch.tensor((0.5**2 + 1.0**2) / 2))
    (gradient,) = torch.autograd.grad(loss, [prototypes.prototypes])
    torch.testing.assert_close(gradient[0], torch.tensor([[0.0, 0.0], [-0.5, -1.0]]))
    assert prototypes.usage.tolist() == [[2, 2], [0, 0]]


def test_mse_moves_prototypes_to_the_class_means() -> None:
    """SGD on mean |G - m|^2 / D in closed form: the distance shrinks by 1 - 2 lr / (D n) a step, n classes seen."""
    prototypes = CategoryPrototypes(2, 2, per_class=1)
    prototypes.observe(*frame(1.0, -2.0))
    start = prototypes.prototypes.detach().clone()
    target, _ = prototypes.class_means(*frame(4.0, 0.5))
    optimizer = torch.optim.SGD([prototypes.prototypes], lr=0.5)
    for _ in range(10):
        optimizer.zero_grad()
        prototypes.observe(*frame(4.0, 0.5)).backward()
        optimizer.step()
    shrunk = (1 - 2 * 0.5 / (2 * 2)) ** 10
    want = target[0][:, None] + shrunk * (start - target[0][:, None])
    torch.testing.assert_close(prototypes.prototypes.detach(), want)


def test_ema_moves_prototypes_by_the_mean_of_their_hits() -> None:
    prototypes = CategoryPrototypes(1, 2, per_class=1, update="ema", momentum=0.9)
    prototypes.observe(*frame(1.0))
    two = [torch.cat(parts) for parts in zip(frame(2.0), frame(4.0), strict=True)]
    assert prototypes.observe(*two).item() == 0
    torch.testing.assert_close(prototypes.prototypes[0, 0], torch.tensor([0.9 * 1 + 0.1 * 3, 0.9 * 2 + 0.1 * 6]))
    assert not prototypes.prototypes.requires_grad


def test_frames_without_labels_change_nothing() -> None:
    for update in ("mse", "ema"):
        prototypes = CategoryPrototypes(2, 2, update=update)
        prototypes.observe(*frame(1.0, 2.0))
        before = {name: x.clone() for name, x in prototypes.state_dict().items()}
        pixels, labels = frame(7.0, 8.0)
        loss = prototypes.observe(pixels, torch.full_like(labels, 255))
        assert loss.item() == 0
        assert all(torch.equal(x, before[name]) for name, x in prototypes.state_dict().items())


def test_no_gradient_reaches_the_pixels_and_half_precision_does_not_matter() -> None:
    prototypes = CategoryPrototypes(2, 2, per_class=1)
    prototypes.observe(*frame(1.0, 2.0))
    pixels, labels = frame(1.001, 2.0)
    pixels.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = prototypes.observe(pixels, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor((0.001**2 + 0.002**2) / 2 / 2), rtol=1e-3, atol=0)
    loss.backward()
    assert pixels.grad is None


def test_a_slot_that_nothing_comes_near_to_is_given_away() -> None:
    """Slots at 1 and 9; the class stays near 1. After 3 updates that missed it, the slot at 9 takes the next mean."""
    prototypes = CategoryPrototypes(2, 2, per_class=2, reseed=3)
    for value in (1.0, 9.0):
        prototypes.observe(*frame(value))
    for count in (1, 2, 3):
        prototypes.observe(*frame(1.5))
        assert prototypes.idle.tolist() == [[0, count], [0, 0]]
        torch.testing.assert_close(prototypes.prototypes[0, 1].detach(), torch.tensor([9.0, 18.0]))
    prototypes.observe(*frame(2.0))
    torch.testing.assert_close(prototypes.prototypes[0].detach(), torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    assert prototypes.filled[0].all()
    assert prototypes.idle.tolist() == [[1, 0], [0, 0]]  # the mean is now nearest to the slot it fills


def test_slots_of_classes_that_are_not_seen_wait() -> None:
    """Class 1 is not in the frames: its prototypes neither age nor leave, however old they are."""
    prototypes = CategoryPrototypes(2, 2, per_class=2, reseed=1)
    prototypes.observe(*frame(1.0, 5.0))
    prototypes.observe(*frame(1.0, 7.0))
    prototypes.idle[1] = 10
    before = prototypes.prototypes[1].detach().clone()
    for _ in range(4):
        prototypes.observe(*frame(3.0))
    assert torch.equal(prototypes.prototypes[1].detach(), before)
    assert prototypes.filled[1].all()
    assert prototypes.idle[1].tolist() == [10, 10]


def test_without_reseeding_nothing_is_kept_for_it() -> None:
    """Weights that were saved before the option stood load as they are."""
    assert set(CategoryPrototypes(2, 2).state_dict()) == {"prototypes", "filled", "usage"}
    assert set(CategoryPrototypes(2, 2, reseed=5).state_dict()) == {"prototypes", "filled", "usage", "idle"}
    with pytest.raises(ValueError, match="reseed of 0 or more updates, came -1"):
        CategoryPrototypes(2, 2, reseed=-1)


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="'mse' or 'ema', came 'sgd'"):
        CategoryPrototypes(2, 2, update="sgd")


# -- two processes ----------------------------------------------------------------------------------------------------


def rounds(prototypes: CategoryPrototypes, share: slice) -> dict[str, Tensor]:
    """Show 6 batches of 4 frames, of which this process sees a share; average gradients as DDP does."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        pixels = torch.randn(4, 3, 6, 6, generator=generator)
        labels = torch.randint(0, 3, (4, 6, 6), generator=generator).to(torch.uint8)
        labels[1] = 255
        loss = prototypes.observe(pixels[share], labels[share])
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, [prototypes.prototypes])
            if torch.distributed.is_initialized():
                torch.distributed.all_reduce(gradient)
                gradient /= torch.distributed.get_world_size()
            prototypes.prototypes.data -= 0.5 * gradient
    return prototypes.state_dict()


def process(rank: int, folder: str, update: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    state = rounds(CategoryPrototypes(3, 3, 2, update), slice(2 * rank, 2 * rank + 2))
    torch.save(state, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("update", ["mse", "ema"])
def test_two_processes_equal_one(tmp_path: Path, update: str) -> None:
    mp.spawn(process, (str(tmp_path), update), nprocs=2)
    want = rounds(CategoryPrototypes(3, 3, 2, update), slice(None))
    assert want["filled"].all()
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, rtol=1e-6, atol=1e-6, msg=f"{rank} {name}")


@pytest.mark.parametrize("update", ["mse", "ema"])
def test_the_host_never_waits_for_the_device(update: str) -> None:
    """Filling a slot, freeing one and moving the nearest are all decided on the device."""
    prototypes = CategoryPrototypes(3, 2, per_class=2, update=update, reseed=1)
    with HostCopies() as copies:
        for value in (1.0, 1.0, 3.0, 9.0):
            prototypes.observe(*frame(value, -value))
    assert copies.found == []
    assert prototypes.filled.tolist() == [[True, True], [True, True], [False, False]]


def test_a_model_sets_momentum_and_least_pixels() -> None:
    options = {"update": "ema", "prototypes": 1, "prototype_momentum": 0.75, "prototype_pixels": 9}
    model = create_model("ssltm-tiny", LabelSpace(("a", "b")), temporal=options)
    prototypes = model.temporal.prototypes
    assert isinstance(prototypes, CategoryPrototypes)
    channels = prototypes.prototypes.shape[-1]
    prototypes.observe(*frame(1.0, channels=channels))
    pixels, labels = frame(3.0, channels=channels)
    few = labels.clone().fill_(255)
    few[0, :2] = 0  # 8 cells
    before = prototypes.prototypes.detach().clone()
    prototypes.observe(pixels, few)
    assert torch.equal(prototypes.prototypes, before)
    prototypes.observe(pixels, labels)
    torch.testing.assert_close(prototypes.prototypes[0, 0, 0].item(), 0.75 * 1.0 + 0.25 * 3.0)
    for wrong in ({"prototype_momentum": 1.0}, {"prototype_pixels": 0}):
        with pytest.raises(InputError, match="expected a momentum from 0 up to but not 1, and 1 or more pixels"):
            create_model("ssltm-tiny", LabelSpace(("a", "b")), temporal=wrong)
