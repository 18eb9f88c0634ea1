"""How this project reads and writes a FiftyOne dataset; free of PyTorch."""
