# Needs Python 3.11 or later, pip and make. Everything else is installed below this folder.
# The file .complete marks a finished installation, so that a second run installs nothing.

UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := runs/digits

.PHONY: setup test test-slow demo docs layout walkthrough parity weights clean

setup: .venv/.complete .oracle/.complete
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit; done; \
	  echo "Chromium is missing, so the tests of pages are skipped: apt-get install chromium"

# uv is installed to a folder of its own, because Debian's Python refuses other targets and has no venv module.
$(UV):
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .uv uv==$(UV_VERSION)

# Compile bytecode as pip does. Otherwise, if Python cannot write to the library's folder, it compiles at every start,
# which takes two seconds for PyTorch.
.venv/.complete: pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --locked --all-extras --compile-bytecode
	@touch $@

# TF-Slim needs TensorFlow 2.12, so the tests run it in an environment of its own.
.oracle/.complete: tests/oracle/requirements.txt | $(UV)
	$(UV) venv --quiet --clear --python 3.11 .oracle
	$(UV) pip install --quiet --compile-bytecode --python .oracle/bin/python --requirement tests/oracle/requirements.txt
	@touch $@

test: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
# One process for each core, with one thread each, because the threads of two processes would wait for each other.
	OMP_NUM_THREADS=1 .venv/bin/pytest -n logical --maxprocesses 4 --dist worksteal --durations 20

# Install the wheel, without extras and with PyTorch, for every Python from 3.11 to 3.13 on this machine, and use it.
# Needs a package index, 6 GB of disk, and minutes.
# Also build the documentation site, and open it in Chromium.
test-slow: setup .docs-venv/.complete
	.venv/bin/pytest -m slow --durations 20

# Train on handwritten digits, evaluate, predict the classes of ten digits that were not used for training, and write a
# page of one of them.
demo: .venv/.complete
	.venv/bin/inception-v3 train digits --out $(RUN) --overwrite
	.venv/bin/inception-v3 evaluate $(RUN) digits
	.venv/bin/inception-v3 predict $(RUN) examples/digits --top 3
	.venv/bin/inception-v3 look $(RUN) examples/digits/7-0081.png --out $(RUN)/look.html

# Build the documentation site from README.md, docs/*.md and the docstrings; a warning is an error. Needs no network after
# the installation. `python -m http.server --directory site` serves it, and it also works from disk.
docs: .docs-venv/.complete
	.docs-venv/bin/python -m sphinx -q -W --keep-going -c docs/sphinx -d .cache/docs . site
	@echo "site/index.html"

# Sphinx has an environment of its own, so that whoever only tests does not install it. It finds the package in .venv.
.docs-venv/.complete: pyproject.toml uv.lock .venv/.complete | $(UV)
	UV_PROJECT_ENVIRONMENT=.docs-venv $(UV) sync --quiet --locked --only-group docs --no-install-project \
		--compile-bytecode --python .venv/bin/python
	@touch $@

# Print which folder imports which, and bring docs/architecture.md and its picture up to date.
layout: .venv/.complete
	.venv/bin/python tests/layout.py --write

# Write docs/walkthrough.md, the same page in Chinese, and their drawings.
walkthrough: .venv/.complete
	.venv/bin/python tests/walkthrough.py --write

# Print the table of docs/parity.md.
parity: setup
	PYTHONPATH=tests/network .venv/bin/python tests/parity_report.py

# Print two tables of docs/weights.md. (.venv/bin/python benchmarks/loading.py prints its loading times.) The programs of
# these forms are no requirement of the tests: uv pip install lightning accelerate transformers, and Node. Keras 3 on
# TensorFlow is installed to a temporary folder, which needs a package index.
weights: setup
	PYTHONPATH=tests/network:tests/weights .venv/bin/python tests/weights_forms.py
	PYTHONPATH=tests/network:tests/weights .venv/bin/python tests/weights_report.py

clean:
	rm -rf .venv .docs-venv .oracle .uv .cache runs site
