# Everything a person does with the project, one verb a target. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/ready$(GPU)
LOCKS := requirements.lock requirements-cpu.lock requirements-gpu.lock
export RECIPE ?= pipelines/recipes/demo.yaml
PORT ?= 5000

.DEFAULT_GOAL := help
.PHONY: help setup demo run mlflow test test-all lint docs images lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv from the locks (GPU=1: the CUDA build of torch)

# torch and what is linked with it come last and from a lock of their own: the CPU build (`+cpu`) where pip is configured
# to find one, else the default build, which on Linux brings the CUDA libraries along. Both are pinned and checked by hash.
$(READY): pyproject.toml $(LOCKS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/ready*
	@echo "Installing the locked packages into $(VENV): takes a few minutes the first time"
	@$(PIP) --require-hashes -r requirements.lock
ifdef GPU
	@$(PIP) --require-hashes --no-deps -r requirements-gpu.lock
else
	@$(PIP) --require-hashes --no-deps -r requirements-cpu.lock 2>/dev/null \
	|| { echo "No CPU build of torch within reach of pip: installing the default one"; \
	     $(PIP) --require-hashes --no-deps -r requirements-gpu.lock; }
endif
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Run the whole workflow on a planted log, on this machine
	@$(BIN)/slimrec run pipelines/recipes/demo.yaml --output runs/demo

run: setup ## Run RECIPE=FILE on this machine
	@$(BIN)/slimrec run "$$RECIPE"

mlflow: setup ## Serve the runs and models of this folder at PORT, for a browser and for MLFLOW_TRACKING_URI
	@echo "MLFLOW_TRACKING_URI=http://127.0.0.1:$(PORT)"
	@mkdir -p runs/mlflow
	@MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
		$(BIN)/mlflow server --backend-store-uri sqlite:///runs/mlflow/mlflow.db \
		--no-serve-artifacts --default-artifact-root "$$PWD/runs/mlflow/artifacts" --host 127.0.0.1 --port $(PORT) --workers 1

# As many processes as there are processors, each with one thread: two that share one by turns wait for each other.
# Files go to them in the order of tests/conftest.py, long ones first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: setup ## Run the tests, without those that take minutes; or all of TESTS="tests/test_x.py -k word"
	@$(PYTEST) $(or $(TESTS),-m "not battery")

test-all: setup ## Run every test
	@$(PYTEST) $(TESTS)

lint: setup ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: setup ## Build the site of docs/ into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

images: ## Build KINDS="cpu gpu mlflow" with docker, podman or buildah (REGISTRY= WHEELS= TORCH=default BASE= ENGINE=)
	@$(PYTHON) images/build.py $(KINDS) --registry "$(REGISTRY)" --base "$(BASE)" --wheels "$(WHEELS)" \
		--torch "$(or $(TORCH),cpu)" --engine "$(ENGINE)"

UV := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
CUDA := ^(torch|torchrec|torchmetrics|tensordict|fbgemm-gpu|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==

lock: ## Resolve the locks anew (needs uv; requirements-cpu.lock is kept by hand)
	@$(UV) pyproject.toml --extra train --extra trees --extra sharded --extra pipelines --extra server --extra dev --extra docs > $(VENV)/resolved
	@awk '/^[a-z]/ { keep = ($$0 !~ /$(CUDA)/) } keep' $(VENV)/resolved > requirements.lock
	@awk '/^[a-z]/ { keep = ($$0 ~ /$(CUDA)/) } keep' $(VENV)/resolved | sed 's/^torch==/torch===/' > requirements-gpu.lock
	@$(UV) pyproject.toml --extra train --extra sharded --constraint $(VENV)/resolved > $(VENV)/step
	@{ awk '/^[a-z]/ { keep = ($$0 !~ /$(CUDA)/) } keep' $(VENV)/step; \
	   awk '/^[a-z]/ { keep = /^kfp==/ } keep' requirements.lock; } > images/requirements.lock
	@$(UV) pyproject.toml --extra server --constraint $(VENV)/resolved > images/mlflow.lock
	@echo "cyclonedx-bom>=7" | $(UV) - > images/build.lock

clean: ## Remove the environment and all runs
	rm -rf $(VENV) runs build *.egg-info
