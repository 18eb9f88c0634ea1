"""Panels of the App."""
