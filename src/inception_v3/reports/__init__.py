"""HTML pages and plots. They take plain data, and import no feature of the project."""
