"""The forms of docs/weights.md: each is written by its own program, and read and converted back with equal outputs."""

import re
from pathlib import Path

import pytest

from weights_forms import Form, forms

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"


def test_the_page_has_a_row_for_each_form() -> None:
    table = PAGE.read_text("utf-8").partition("\n| form | program | read | converted back |\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (?!---)(.*?) \|", table, re.MULTILINE) == [form.name for form in forms()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", list(forms()), ids=lambda form: form.name)
def test_a_form_gives_the_outputs_of_its_program_and_is_converted_back(form: Form, tmp_path: Path) -> None:
    if not form.program:
        pytest.skip("its program is not installed")
    for difference in form.measure(tmp_path):
        assert difference is None or difference <= 1e-4
