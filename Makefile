# make demo   install into .venv and segment a real scan with each bundle
# make test   install and run the whole test suite
# make lint   ruff and mypy
# make reliability       run the tests of docs/reliability.md and write its tables anew
# make reliability-long  the same with the longer runs
# make test-monailabel   the bundles in MONAI Label's own server, in an environment of its own
# make monailabel-pictures  draw docs/images/monai_label*.png anew, from what that server returns
# make report-picture  draw docs/images/report.png anew; needs Chromium (CHROMIUM=chrome, if it is called so)
# make test-elsewhere    federated learning and tracking
# make test-datasets     each dataset's layout from its folder to the papers' tables, both bundles; fine-tuning's benchmark
# make test-release      the released archives in an environment with nothing but what they declare

PYTHON ?= python3
BIN = .venv/bin
BUNDLE = $(BIN)/python -W ignore -m monai.bundle run --config_file

.PHONY: demo test lint reliability reliability-long test-monailabel monailabel-pictures report-picture \
	test-release test-elsewhere test-datasets clean

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

MONAI_LABEL = OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/tests/annotation/without_torchvision \
	.venv-monailabel/bin/python -m

test-monailabel: .venv-monailabel/installed
	$(MONAI_LABEL) pytest -m long tests/annotation

monailabel-pictures: .venv-monailabel/installed
	$(MONAI_LABEL) tests.annotation.demo docs/images

CHROMIUM ?= chromium

report-picture: .venv/installed-dev
	rm -rf demo/output/report
	$(BIN)/python demo/awkward_cohort.py demo/output/report/cohort
	-$(BIN)/strokeseg predict --model xnet demo/output/report/cohort demo/output/report/cohort/sourcedata/sub-08 \
		--output demo/output/report/lesions
	sed -i 's|$(CURDIR)/demo/output/report/||g' demo/output/report/lesions/report.html
	$(CHROMIUM) --headless --no-sandbox --hide-scrollbars --window-size=1280,1760 \
		--screenshot=docs/images/report.png file://$(CURDIR)/demo/output/report/lesions/report.html

test-release: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/release

test-elsewhere: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/bundles/test_federated.py tests/bundles/test_tracking.py

test-datasets: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "long or not long" tests/experiments/test_datasets_to_tables.py \
		tests/experiments/test_finetuning_benchmark.py

.venv-monailabel/installed: pyproject.toml constraints.txt tests/annotation/requirements.txt
	$(PYTHON) -m venv .venv-monailabel
	.venv-monailabel/bin/python -m pip install --quiet --upgrade pip
	.venv-monailabel/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	.venv-monailabel/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	.venv-monailabel/bin/python -m pip install --quiet --requirement tests/annotation/requirements.txt
	.venv-monailabel/bin/python -m pip install --quiet --no-deps pydicom-seg==0.4.1 monailabel==0.8.5
	touch $@

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
	rm -rf .venv .venv-monailabel demo/output
