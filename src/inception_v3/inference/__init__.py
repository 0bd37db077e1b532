"""From images to outputs: engines, export, the prediction pipeline and result files."""
