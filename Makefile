# make test  installs (once) and runs lint, types and tests
PYTHON ?= python3
BIN := .venv/bin
PIN := requirements/build.txt requirements/tested.txt requirements/nodeps.txt requirements/dev.txt
# -O2 must be named: CFLAGS replaces the default, and without it everything runs four times slower
MMCV_FLAGS := MMCV_WITH_OPS=1 MAX_JOBS=$(shell nproc) CFLAGS="-O2 -g0 -w"

.PHONY: install test

install: .venv/.installed

.venv/.installed: $(PIN)
	@echo "== 1/4 virtual environment, torch and build tools (some GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || (echo "could not make .venv: is the venv module installed?"; exit 1)
	$(BIN)/pip install -q -r requirements/build.txt
	@echo "== 2/4 the tested set"
	$(BIN)/pip install -q -r requirements/tested.txt -r requirements/dev.txt
	@echo "== 3/4 mmcv: its operators are compiled here, about 5 minutes on two cores, without output"
	$(MMCV_FLAGS) $(BIN)/pip install -q --no-build-isolation --no-deps onedl-mmcv==2.3.6
	@$(BIN)/python -c "import mmcv.ops" || (echo "mmcv was installed without its operators: is a C++ compiler installed? Then: rm -r .venv; make install"; exit 1)
	@echo "== 4/4 mmdet, mmpretrain and this package"
	$(BIN)/pip install -q --no-build-isolation --no-deps -r requirements/nodeps.txt
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	@touch $@

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest
