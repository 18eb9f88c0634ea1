"""Engines: what drives `core/explain.py` over many images. Items in, results out; no FiftyOne, no database."""
