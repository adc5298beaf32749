"""Temporal modules: `(query, memory) -> (embedding, memory)`."""
