"""No time: every frame alone, the null object among the temporal modules."""

from __future__ import annotations

from torch import nn

from everyframe.models.temporal.base import Embedding, Features, Memory, TemporalModule


class Identity(TemporalModule):
    """Hands the query's embedding on and remembers nothing."""

    def forward(self, query: Features, memory: Memory, head: nn.Module) -> tuple[Embedding, Memory]:
        """See `TemporalModule.forward`."""
        return query.embedding, None
