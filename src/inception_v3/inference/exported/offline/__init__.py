"""A single HTML page that holds a network and classifies images in a browser, without a connection."""
