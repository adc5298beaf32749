"""Command line: one file per command, arguments -> one library call."""
