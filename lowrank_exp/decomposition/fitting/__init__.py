"""How factors are fitted: alternating least squares, HOOI, Gram matrices, k-means."""
