"""Models judged on labelled pictures: `evaluate.evaluate_models` and the report of what it found."""
