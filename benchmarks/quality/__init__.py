"""Tables of quality, one command each, on the public data sets beside the checkout."""
