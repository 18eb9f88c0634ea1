"""From what was found to a better classifier: the head edited or trained anew, with every group counted."""
