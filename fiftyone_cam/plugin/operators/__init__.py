"""Operators of the App: a form in, one call of the SDK, triggers out."""
