# Needs Python 3.11 or later, pip and make; everything else is set up below this folder.
# A stamp stands for a finished step, so that a second run installs nothing.

UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := runs/digits

.PHONY: setup test demo parity weights clean

setup: .venv/.complete .oracle/.complete

# uv goes into a folder of its own: Debian's Python allows no other place, and has no venv module.
$(UV):
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .uv uv==$(UV_VERSION)

# Compiled as pip compiles: otherwise, where Python may not write beside a library, each start compiles it anew, which
# takes PyTorch two seconds.
.venv/.complete: pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --locked --all-extras --compile-bytecode
	@touch $@

# TF-Slim runs on TensorFlow 2.12 alone: the tests ask it in an environment of its own.
.oracle/.complete: tests/oracle/requirements.txt | $(UV)
	$(UV) venv --quiet --clear --python 3.11 .oracle
	$(UV) pip install --quiet --compile-bytecode --python .oracle/bin/python --requirement tests/oracle/requirements.txt
	@touch $@

test: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
# A process for each core and one thread in each: threads of two processes would wait for each other.
	OMP_NUM_THREADS=1 .venv/bin/pytest -n logical --maxprocesses 4 --dist worksteal --durations 20

# Train on handwritten digits, judge, and name ten that training never saw.
demo: .venv/.complete
	.venv/bin/inception-v3 train digits --out $(RUN) --overwrite
	.venv/bin/inception-v3 evaluate $(RUN) digits
	.venv/bin/inception-v3 predict $(RUN) examples/digits --top 3

# The table of docs/parity.md.
parity: setup
	.venv/bin/python tests/parity_report.py

# The table of docs/weights.md. (Its figures of loading: .venv/bin/python benchmarks/loading.py)
weights: setup
	.venv/bin/python tests/weights_report.py

clean:
	rm -rf .venv .oracle .uv .cache runs
