"""Networks on graphs of users, items and attributes: sparse matrices in, vectors out."""
