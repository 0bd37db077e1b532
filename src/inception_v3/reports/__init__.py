"""HTML pages and plots. They take plain data, and import no other part of the project except `support`."""
