"""Models judged on labelled pictures: `evaluate.judge` and the report of what it found."""
