# make demo    a synthetic scene, a training run, a fused image and its numbers, in under 3 minutes on 2 cores
# make test    every test that needs no GPU            make lint   ruff and clang-format, checking only
# make bench   speed, side by side in one run          make gpu    tests and benchmarks on a CUDA machine
#                                                       (MAMBA_SSM=its .tar.gz: builds that operator to compare with;
#                                                       PY=python3: in an environment that is there, no network needed)
# make fuzz    long fuzzing and the long kill test      make clean  remove the environment
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
KERNELS := $(wildcard model/ops/native/*.[ch] tests/*.c benchmarks/*.c)

.PHONY: venv demo test lint format bench gpu fuzz matlab-tables clean

venv: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or later is needed, this is " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make environments (ensurepip is missing); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(STAMP)
	$(PY) demo.py

test: $(STAMP)
	$(PY) -m pytest -m "not gpu and not fuzz"

bench: $(STAMP)
	$(PY) -m benchmarks.bench_scan --plain
	$(PY) -m benchmarks.bench_metrics
	$(PY) -m benchmarks.bench_step

fuzz: $(STAMP)
	$(PY) -m pytest -m fuzz -s

# a test that fails does not keep the measurements from running, but is the result
gpu: $(if $(filter $(VENV)/%,$(PY)),$(STAMP))
	@$(PY) -m pytest -m gpu; tests=$$?; $(PY) -m benchmarks.gpu_warm; \
	  $(PY) -m benchmarks.gpu $(if $(MAMBA_SSM),--build $(MAMBA_SSM)) && exit $$tests

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(KERNELS)

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(KERNELS)

# Tools/sensor_table.m of the MATLAB package, after a change of utils/sensors.py
matlab-tables: $(STAMP)
	$(PY) -m lemamba.utils.sensors

clean:
	rm -rf $(VENV)
