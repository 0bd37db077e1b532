"""Measure every engine, precision and comparable library on this machine, in alternation."""
