"""No time: every frame alone, the null object among the temporal modules."""

from __future__ import annotations

from everyframe.models.heads.base import Head
from everyframe.models.temporal.base import Embedding, Features, Memory, TemporalModule


class Identity(TemporalModule[Head]):
    """Hands the query's embedding on and remembers nothing."""

    def forward(self, query: Features, memory: Memory, head: Head) -> tuple[Embedding, Memory]:
        """See `TemporalModule.forward`."""
        return query.embedding, None
