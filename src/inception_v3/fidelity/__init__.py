"""Scores of generated images: FID, KID, Inception Score and the rest, each equal to its reference."""
