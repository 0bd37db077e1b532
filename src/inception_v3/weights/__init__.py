"""The public InceptionV3 and its weights on disk: load, save, convert, download, and the formats of other programs."""
