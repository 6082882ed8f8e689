# Every target makes its own environment in .venv when none is there. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1
export MPLBACKEND := Agg
export TOKENIZERS_PARALLELISM := false
export KMP_BLOCKTIME := 0

.PHONY: demo test lint slow families bench gpu clean

demo: .venv/.dev
	$(BIN)/python -m tokscale demo --out demo-out

test: .venv/.dev
	$(BIN)/python -m pytest -q -m "not gpu and not slow"

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy tokscale

slow: .venv/.dev
	$(BIN)/python -m pytest -q -m "slow and not gpu"

# Every model type of transformers against the whole contract, about 4 minutes; docs/families.md is written anew.
# FAMILIES_JSON: results of other versions of transformers, for further sections of that page (see CONTRIBUTING.md).
families: .venv/.dev
	$(BIN)/python -m tests.families.matrix --json .venv/families.json
	$(BIN)/python -m tests.families.page .venv/families.json $(FAMILIES_JSON)

# The operators on this CPU beside everybody else who computes the same, in less than 5 minutes; on an idle machine.
bench: .venv/.dev
	$(BIN)/python -m benchmarks.device --out $(or $(OUT),benchmarks/results/cpu)/device.csv
	$(BIN)/python -m benchmarks.run --op all --limit 270 --out $(or $(OUT),benchmarks/results/cpu)
	$(BIN)/python -m benchmarks.plot $(or $(OUT),benchmarks/results/cpu)
	$(BIN)/python -m benchmarks.goals $(or $(OUT),benchmarks/results/cpu)

# Everything there is to measure on a GPU, in less than 9 minutes. Installs nothing: GPU_PYTHON has torch, triton, pytest.
# Without a GPU: GPU_FLAGS=--dry-run OUT=folder runs every command line at tiny shapes, by the interpreter.
GPU_PYTHON ?= python3
gpu:
	PYTHONPATH=. $(GPU_PYTHON) -m benchmarks.gpu --out $(or $(OUT),benchmarks/results/gpu) $(GPU_FLAGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo-out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written after a finished install: an interrupted one is repeated, a finished one is not.
.venv/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: the first time about 4 minutes and 6 GB."
	$(BIN)/python -m pip install --no-compile -q -e ".[dev]"
	touch $@
