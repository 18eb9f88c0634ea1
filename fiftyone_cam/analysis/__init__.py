"""What stored maps say: audit, comparison, boxes, logits, pictures. No network is run."""
