# Every target works on a machine with python3 (3.11 or later), pip and make: ./voltledger installs the rest.
.DEFAULT_GOAL := help
.PHONY: help run test proof lint types lock clean browser versions

DEV := VOLTLEDGER_DEV=1 ./voltledger python
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

help: ## Lists the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1\t\2/p' Makefile

run: ## Runs the demo: server, embedded databases, a small simulated fleet
	@./voltledger demo

test: versions browser lint ## Checks the style and the types and runs the whole test suite
	$(DEV) -m pytest $(PYTEST_ARGS)

proof: ## Tries to break every promise, for up to 80 minutes, and leaves a report in docs/evidence
	$(DEV) -m tools.proof $(PROOF_ARGS)

lint: ## Checks the style and the types
	$(DEV) -m ruff check .
	$(DEV) -m ruff format --check .
	$(DEV) -m mypy

types: ## Generates the wire types again from the OCPP schemas
	$(DEV) -m tools.generate_types

lock: ## Resolves requirements*.in again (needs uv on PATH)
	@command -v uv >/dev/null || { echo "make lock needs uv on PATH (pip install uv)" >&2; exit 1; }
	uv pip compile -q --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links requirements.in -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links requirements-dev.in -c requirements.lock \
		-o requirements-dev.lock

versions:
	@$(DEV) -c 'import platform, sys; print("python", platform.python_version(), "on", platform.platform())'
	@$(DEV) -m ruff --version
	@$(DEV) -m mypy --version
	@$(DEV) -m pytest --version

# The browser tests drive Debian's Chromium. Only root may install it.
browser:
	@if command -v chromium >/dev/null; then chromium --version 2>/dev/null || true; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing chromium for the browser tests"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
			>/dev/null || echo "could not install chromium: the browser tests are skipped"; \
	else echo "chromium is missing: the browser tests are skipped (Debian: apt-get install chromium)"; fi

clean: ## Removes environments, caches and builds; keeps the data folder .voltledger
	rm -rf .voltledger-env .voltledger-env-dev .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache build dist test-results
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
