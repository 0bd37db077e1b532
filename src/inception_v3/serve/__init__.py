"""Networks behind HTTP: the Open Inference Protocol, uploads of images, dynamic batching, metrics."""
