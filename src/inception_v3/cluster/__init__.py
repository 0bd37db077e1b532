"""The same jobs on many machines: Ray starts the processes and schedules the parts, the ordinary code computes them."""
