# make demo   installs (once), then draws, trains, evaluates and looks at a small 1-bit detector: minutes on two cores
# make test   installs (once), then lint, types and tests
# make quick  the same without the slow tests: under two minutes on two cores
# make docs   installs (once), then builds the pages into build/docs/index.html; a broken link fails it
PYTHON ?= python3
BIN := .venv/bin
PIN := requirements/build.txt requirements/tested.txt requirements/nodeps.txt requirements/dev.txt
PIP := $(BIN)/pip install --disable-pip-version-check
# -O2 must be named: CFLAGS replaces the default, and without it everything runs four times slower
MMCV := MMCV_WITH_OPS=1 MAX_JOBS=$(shell nproc) CFLAGS="-O2 -g0 -w" $(PIP) --no-build-isolation --no-deps onedl-mmcv==2.3.6
# a call: operators that were compiled against another torch are imported, and fail when they are called
MMCV_WORKS := $(BIN)/python -c "import torch, mmcv.ops; mmcv.ops.nms(torch.zeros(1, 4), torch.ones(1), 0.5)"
DEMO := faster_rcnn_rebnn_r18_demo
# $(call fail,SENTENCE): stop with what failed and what to do; no comma in the sentence
fail = || { echo; echo "FAILED: $(1)"; exit 1; }

.PHONY: install test quick demo docs

install: .venv/.installed

.venv/.installed: $(PIN)
	@echo "== 1/4 virtual environment, torch and build tools (some GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv $(call fail,no .venv could be made; is $(PYTHON) a Python 3.10 to 3.12 with the venv module? Name another one: make install PYTHON=python3.11)
	@$(PIP) -r requirements/build.txt $(call fail,torch was not installed; is the package index reachable and some 8 GB of disk free? Then: make install)
	@echo "== 2/4 the tested set"
	@$(PIP) -r requirements/tested.txt -r requirements/dev.txt $(call fail,the tested set was not installed; see the message above. Then: make install)
	@echo "== 3/4 mmcv: its operators are compiled now, about 5 minutes on two cores"
	@$(MMCV) $(call fail,mmcv did not compile; is a C++17 compiler (g++) installed? Then: make install)
	@$(MMCV_WORKS) > /dev/null 2>&1 || { echo "mmcv as installed or cached is of another torch, or has no operators: compiled anew"; \
	  $(BIN)/pip cache remove onedl_mmcv > /dev/null 2>&1; $(MMCV) --force-reinstall; } $(call fail,mmcv did not compile; is a C++17 compiler (g++) installed? Then: make install)
	@$(MMCV_WORKS) > /dev/null $(call fail,mmcv was installed without its operators; see the message above)
	@echo "== 4/4 mmdet, mmpretrain and this package"
	@$(PIP) --no-build-isolation --no-deps -r requirements/nodeps.txt $(call fail,mmdet or mmpretrain was not installed; see the message above. Then: make install)
	@$(PIP) --no-build-isolation --no-deps -e . $(call fail,this package was not installed; see the message above. Then: make install)
	@touch $@

test: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . $(call fail,lint; 'ruff check --fix .' and 'ruff format .' mend most of it)
	@$(BIN)/mypy $(call fail,types; see the lines above)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(call fail,tests; 'pytest --last-failed' runs the failed ones again)

quick: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . $(call fail,lint; 'ruff check --fix .' and 'ruff format .' mend most of it)
	@$(BIN)/mypy $(call fail,types; see the lines above)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup $(call fail,tests; 'pytest --last-failed' runs the failed ones again)

docs: install
	@$(BIN)/python -m sphinx -W --keep-going -q docs build/docs $(call fail,the pages were not built; each WARNING above names a file and a line)
	@echo "open build/docs/index.html"

demo: install
	@echo "== 1/3 drawing the data set into data/demo"
	@test -d data/demo/VOCdevkit/VOC2007 || $(BIN)/python tools/make_demo_data.py --out data/demo $(call fail,the data set was not drawn; see the message above)
	@echo "== 2/3 training Faster R-CNN with a 1-bit ResNet-18; each line shows the time left (eta)"
	@$(BIN)/python tools/train.py configs/$(DEMO).py $(call fail,training; tools/train.py configs/$(DEMO).py --resume goes on where it stopped)
	@echo "== 3/3 evaluating on the 50 test images, and drawing them with their detections"
	@$(BIN)/python tools/test.py configs/$(DEMO).py work_dirs/$(DEMO)/latest.pth --show-dir work_dirs/$(DEMO)/pictures $(call fail,evaluation; see the message above)
	@echo "pictures (truth left, detections right): work_dirs/$(DEMO)/pictures"
