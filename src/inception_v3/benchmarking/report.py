"""The result of a benchmark as text, as an HTML page (its template is report.html) and as a CSV table."""

from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from inception_v3.benchmarking.bench import BenchResult, BenchRow
from inception_v3.reports import tables
from inception_v3.reports.pages import write_page

COLUMNS = (
    *("engine", "precision", "batch", "images/s", "×", "p50 ms", "p99 ms"),
    *("MB", "of peak", "same class", "off by", "in int8"),
)


def format_row(row: BenchRow) -> list[str]:
    """The cells of a row, in the order of COLUMNS. A value that is None becomes a dash."""
    figures: list[tuple[Any, str]] = [
        (row.images_per_second, "{:,.1f}"),
        (row.ratio, "{:.2f}"),
        (row.latency_p50_ms, "{:,.1f}"),
        (row.latency_p99_ms, "{:,.1f}"),
        (row.peak_memory_mb, "{:,.0f}"),
        (row.peak_share, "{:.0%}"),
        (row.top1_agreement, "{:.1%}"),
        (row.max_difference, "{:.0e}"),
        (row.int8_share, "{:.0%}"),
    ]
    cells = ["–" if value is None else form.format(value) for value, form in figures]
    return [row.engine, row.precision, str(row.batch_size), *cells]


def describe_machine(result: BenchResult) -> str:
    """The title of the table: the GPU or the CPU, the number of cores and of rounds."""
    machine = result.machine
    rounds = "1 round" if result.rounds == 1 else f"{result.rounds} rounds"
    return f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {rounds}"


def describe_figures(result: BenchResult) -> str:
    """The explanation of COLUMNS, and the versions of the packages."""
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in result.peak.items())
    versions = ", ".join(f"{name} {value}" for name, value in result.machine["versions"].items())
    return (
        f"×: speed relative to {result.baseline}. MB: peak memory of the process. of peak: arithmetic "
        f"throughput over that of a matrix product ({peaks} GFLOP/s; an image takes "
        f"{result.operations / 1e9:.2f} GFLOP). same class, off by: top-1 agreement and largest difference of a "
        f"probability, compared with the network itself in fp32 on {result.pictures}. in int8: "
        f"share of the multiplications. {versions}"
    )


def write_html(file: Path, result: BenchResult) -> None:
    """Write the HTML page. Raises InputError if the file cannot be written."""
    values = {
        "title": describe_machine(result),
        "columns": COLUMNS,
        "rows": [format_row(row) for row in result.rows],
        "explanation": describe_figures(result),
        "skipped": result.skipped,
    }
    write_page(file, "benchmarking/report.html", values)


def write_csv(file: Path, result: BenchResult) -> None:
    """Write a CSV table with the fields of BenchRow as columns; to standard output if `file` is STDOUT.

    Raises InputError if the file cannot be written.
    """
    tables.write_csv(file, [field.name for field in fields(BenchRow)], map(astuple, result.rows))
