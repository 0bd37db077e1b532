"""One image through one network: the values of every layer, and what they depend on, as data and as a page."""
