"""Class activation maps over a collection, into the database."""
