"""Model families, one file each. They take standardised images (N, 3, S, S)."""
