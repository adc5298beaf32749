"""Reports: overlay pictures and the self-contained HTML page."""
