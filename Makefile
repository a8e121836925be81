# The commands of the project; `make help` lists them. Everything is installed into this folder.
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --quiet
# Triton's interpreter runs the kernels where there is no GPU.
# One process per core with one thread each does about twice what one process with all threads does.
PYTEST := TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(RUN) pytest -m "not gpu and not soak" -n auto --dist worksteal

.PHONY: help install demo docs test check lint types audit soak format

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

install: $(if $(findstring .uv,$(UV)),.uv/bin/uv)  ## install the project and what it needs into .venv
	$(UV) sync --quiet

demo: install  ## a student alone and with a teacher, over three seeds: about 2.5 minutes on 2 cores
	$(RUN) segdistill demo --overwrite

docs: install  ## build the documentation into site/, for reading without a network; any warning is an error
	@rm -rf site  # built anew: options and docstrings may have changed where no page did
	$(RUN) sphinx-build -c docs -W --keep-going -q -E -j auto -d .venv/doctrees . site
	@echo "open site/index.html"

test: install  ## all tests that need no accelerator
	$(PYTEST)

check: install  ## format, lint, types, import contract, documentation and tests
	$(MAKE) --no-print-directory -j 4 lint types audit docs
	$(PYTEST)

lint:
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) lint-imports
	$(RUN) hadolint Dockerfile

types:
	$(RUN) mypy

audit: install  ## ask for known security holes of what is installed; skipped where nobody answers
	@out=$$(timeout 30 $(RUN) pip-audit --progress-spinner off --timeout 10 --skip-editable 2>&1); code=$$?; \
	if [ $$code -eq 0 ] || echo "$$out" | grep -q "^Found [0-9]* known"; then echo "$$out"; exit $$code; \
	else echo "audit skipped: the database of known holes cannot be reached"; fi

soak: install  ## faults, hostile files and attacks by the thousand, within 20 minutes on 2 cores
	TRITON_INTERPRET=1 timeout --kill-after 20 1200 $(RUN) pytest -m soak --session-timeout 1150 --durations 0

format: install  ## format the code and mend what the linter can mend
	$(RUN) ruff format .
	$(RUN) ruff check --fix .
