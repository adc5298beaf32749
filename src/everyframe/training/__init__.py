"""Training: Lightning modules and callbacks: step, log, nothing else."""
