"""From images to outputs: engines, export, the pipeline, predictions and result files."""
