"""The benchmark: compute_cam beside the limits of the machine and beside what else one could run. See README.md."""
