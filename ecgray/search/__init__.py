"""Search: spaces of settings, and the sweep that looks for the best of them."""
