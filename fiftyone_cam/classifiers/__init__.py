"""A classifier, and where it comes from."""
