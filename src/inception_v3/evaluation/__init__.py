"""Evaluate models on labelled images: `evaluate.evaluate_models`, and reports of its metrics."""
