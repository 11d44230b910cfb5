# make demo    a synthetic scene, a training run, a fused image and its numbers, 3 minutes on 2 free cores
# make test    every test that needs no GPU, in WORKERS=2 processes (COVERAGE=1: also prints how many lines they run)
# make lint    ruff, clang-format, mypy and miss_hit (MATLAB), checking only      make format  ruff and clang-format, changing files
# make bench   speed, compared side by side in one run
# make gpu     tests and benchmarks on a CUDA machine, 10 minutes (MAMBA_SSM=its .tar.gz builds that operator to compare
#              with, minutes more; PY=python3 uses the environment that is there and needs no network)
# make sharded FSDP2 and DDP on two and three CPU processes; DeepSpeed ZeRO-2 too, where it is installed
# make kernels the Triton kernels compiled for sm_80, sm_90 and sm_100: registers, stack, spills; 4 minutes, no GPU
# make fuzz    long fuzzing and the long kill test             make clean   remove the environment and build/
# make typing  links by which type checkers and editors find the package    make architecture  draw figs/architecture.svg
# make docs    the documentation as a site: site/index.html, to be opened in a browser
# make figs    every picture of README and docs, about 6 processor minutes at first (ONLY="speed gallery": some of them)
# make lock    write the installed versions to requirements.lock    make matlab-tables  write sensor_table.m
PYTHON ?= python3
VENV   ?= .venv
WORKERS ?= 2
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
KERNELS := $(wildcard model/ops/native/*.[ch] tests/*.c benchmarks/*.c)
FOLDERS := $(filter-out lemamba benchmarks,$(patsubst %/__init__.py,%,$(wildcard */__init__.py)))

.PHONY: venv demo test lint format typing architecture docs figs lock matlab-tables bench gpu sharded kernels fuzz clean

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
	$(PY) -m pytest -m "not gpu and not fuzz and not sharded" -n $(WORKERS) --dist loadfile $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

bench: $(STAMP)
	$(PY) -m benchmarks.bench_scan --plain
	$(PY) -m benchmarks.bench_metrics
	$(PY) -m benchmarks.bench_step

sharded: $(STAMP)
	$(PY) -m pytest tests/test_sharded.py tests/test_two_processes.py -rs

kernels: $(STAMP)
	$(PY) -m benchmarks.kernel_matrix

fuzz: $(STAMP)
	$(PY) -m pytest -m fuzz -s

# At most ten minutes. The kernels to be measured are compiled while the tests run, the most important of which come
# first. Failing tests do not keep the measurements from running, but decide the exit status.
GPU_TESTS := gpu_block scan_triton metrics gpu_training scan_mamba_ssm runner
gpu: $(if $(filter $(VENV)/%,$(PY)),$(STAMP))
	@$(PY) -m benchmarks.gpu_warm --limit 270 & warm=$$!; \
	  timeout --foreground -s INT -k 15 270 $(PY) -m pytest -m gpu $(GPU_TESTS:%=tests/test_%.py); tests=$$?; wait $$warm; \
	  timeout --foreground -s INT -k 15 $(if $(MAMBA_SSM),1200,280) $(PY) -m benchmarks.gpu --limit 240 \
	    $(if $(MAMBA_SSM),--build $(MAMBA_SSM)) && exit $$tests

lint: $(STAMP) typing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(KERNELS)
	$(VENV)/bin/mypy
	$(VENV)/bin/mh_style Pansharpening_Hyper_SR_Matlab_Test_Package
	$(VENV)/bin/mh_lint Pansharpening_Hyper_SR_Matlab_Test_Package

# In a clone the packages lie next to lemamba/, not in it; these links put them where a wheel has them.
typing:
	@rm -rf build/typing && mkdir -p build/typing/lemamba
	@ln -s $(CURDIR)/lemamba/*.py $(addprefix $(CURDIR)/,$(FOLDERS)) build/typing/lemamba

architecture: $(STAMP)
	$(PY) docs/draw_architecture.py

# Fails for a link that leads nowhere and for a public name without documentation.
docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo site/index.html

figs: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) docs/draw_figures.py $(if $(ONLY),--only $(ONLY))

# Keeps the two lines of comment; "+cpu" is no version that every index has.
lock: $(STAMP)
	@mkdir -p build
	@{ head -2 requirements.lock; $(PY) -m pip freeze --all --exclude pip --exclude lemamba | sed 's/+cpu$$//'; } > build/lock
	@mv build/lock requirements.lock

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(KERNELS)

# sensor_table.m of the MATLAB package, after a change of utils/sensors.py
matlab-tables: $(STAMP)
	$(PY) -m lemamba.utils.sensors

clean:
	rm -rf $(VENV) build site
