"""What predictions are made of, without annotations: concepts over a collection, and predictions without some."""
