"""What there is to compute: the tables of activations, kinds and functions over rows, and what a kernel is made of."""
