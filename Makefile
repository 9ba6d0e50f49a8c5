# make demo   install into .venv and segment a real scan with each bundle
# make test   install and run the whole test suite
# make lint   ruff and mypy
# make reliability       run the tests of docs/reliability.md and write its tables anew
# make reliability-long  the same with the longer runs

PYTHON ?= python3
BIN = .venv/bin
BUNDLE = $(BIN)/python -W ignore -m monai.bundle run --config_file

.PHONY: demo test lint reliability reliability-long clean

demo: .venv/installed
	rm -rf demo/output
	$(BUNDLE) xnet_bundle/configs/inference.json --bundle_root xnet_bundle \
		--dataset_dir demo/chronic --output_dir demo/output/chronic
	$(BUNDLE) cnnres_bundle/configs/inference.json --bundle_root cnnres_bundle \
		--dataset_dir demo/acute --output_dir demo/output/acute
	@echo; echo "The demo wrote:"; find demo/output -type f | sort

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

RELIABILITY = $(BIN)/python -m pytest --reliability-table=docs/reliability.md -m

reliability: .venv/installed-dev
	OMP_NUM_THREADS=1 $(RELIABILITY) "reliability and not long"

reliability-long: .venv/installed-dev
	OMP_NUM_THREADS=1 $(RELIABILITY) reliability

# torch first and alone: its version decides which build of it pip takes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 10), 'Python 3.10 or newer is needed: make PYTHON=...'"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv demo/output
