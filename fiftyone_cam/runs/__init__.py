"""What this project records on a dataset: runs with their fields, views and heatmaps; free of PyTorch."""
