from __future__ import annotations

import pytest
import torch

from everyframe.frames import Clip, Frame, Role


def clip(value: int, roles: tuple[Role, ...] = (Role.ADJACENT, Role.QUERY)) -> Clip:
    t = len(roles)
    return Clip(
        images=torch.full((t, 3, 4, 6), value, dtype=torch.uint8),
        labels=torch.arange(t, dtype=torch.uint8).view(t, 1, 1).expand(t, 4, 6) + value,
        labelled=torch.tensor([False] * (t - 1) + [True]),
        roles=roles,
        indices=torch.arange(t),
        videos=(f"v{value}",),
    )


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 4, 6), torch.zeros(4, 6, 3, dtype=torch.uint8), torch.zeros(1, 3, 4, 6, dtype=torch.uint8)],
)
def test_frame_refuses_other_shapes_and_types(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[3, H, W\]"):
        Frame(image, 0, 0.0, "00000000")


def test_frame_size_is_height_width() -> None:
    assert Frame(torch.zeros(3, 4, 6, dtype=torch.uint8), 0, 0.0, "a").size == (4, 6)


def test_stack_joins_clips_in_order_and_query_labels_picks_the_queries() -> None:
    batch = Clip.stack([clip(1), clip(5)])
    assert batch.images.shape == (2, 2, 3, 4, 6)
    assert batch.videos == ("v1", "v5")
    assert batch.query_labels.shape == (2, 1, 4, 6)
    assert batch.query_labels[:, 0, 0, 0].tolist() == [2, 6]  # label of frame t is t + value; the query is t = 1
    assert batch.images[1].unique().tolist() == [5]


def test_stack_refuses_clips_of_other_roles() -> None:
    with pytest.raises(ValueError, match="expected equal roles"):
        Clip.stack([clip(1), clip(1, (Role.QUERY, Role.QUERY))])


def test_clip_refuses_labels_of_another_size() -> None:
    good = clip(0)
    with pytest.raises(ValueError, match="came"):
        Clip(good.images, good.labels[..., 1:], good.labelled, good.roles, good.indices, good.videos)
