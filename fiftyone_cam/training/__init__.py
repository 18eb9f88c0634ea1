"""Training a classifier whose maps are exact."""
