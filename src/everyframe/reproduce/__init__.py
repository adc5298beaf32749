"""The papers' experiments as grids of commands: what is trained, how a grid is run, and the tables and plots of it."""
