# clonejob: `make` shows this page.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p) 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
export PYTHONSAFEPATH := 1

.PHONY: help
help: ## this page
	@echo "clonejob: test clones of migrating virtual machines"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(VENV)/.run qemu ## clone, cancel and fail real virtual machines (KEEP=1 leaves them running)
	@$(BIN)/python -m worker.demo

.PHONY: demo-stop
demo-stop: $(VENV)/.run ## end what KEEP=1 make demo left running
	@$(BIN)/python -m worker.demo --stop

.PHONY: up
up: $(VENV)/.run ## run the whole service here, in the foreground (data in ./data)
	@$(BIN)/clonejob up

# Tests of processes wait much: one lane more than cores keeps these at work. Hundreds of processes are started, which
# all compile everything anew where no bytecode may be written.
test: LANES ?= $(shell expr $$(nproc 2>/dev/null || echo 1) + 1)
.PHONY: test
test: $(VENV)/.dev ## all tests
	@$(MAKE) --no-print-directory qemu linux-guest-tools compose-tools || [ "$$CI" != true ]
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(LANES) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: check
check: $(VENV)/.dev ## formatting, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: audit-race
audit-race: $(VENV)/.dev ## race the orphan auditor against everything else (N=100000 SEED=0 JOBS=cores); prints JSON
	@PYTHONPATH=.:tests $(BIN)/python tests/guarantee/audit_race.py '$(or $(N),100000)' '$(or $(SEED),0)' '$(or $(JOBS),$(shell nproc 2>/dev/null || echo 1))'

.PHONY: model
model: $(VENV)/.dev ## the model test, long, on both databases (EXAMPLES=300 SEED=n); prints JSON
	@PYTHONPATH=tests $(BIN)/python -m guarantee.machine_report

.PHONY: mutants
mutants: $(VENV)/.dev ## remove each guard of the guarantee in turn and see that the tests go red; prints a table and JSON
	@PYTHONPATH=tests $(BIN)/python -m guarantee.mutants $(ARGS)

.PHONY: conformance
conformance: $(VENV)/.dev ## run every check of the conformance kit on every target, clouds on their stand-ins
	@$(MAKE) --no-print-directory qemu
	@CLONEJOB_CONFORMANCE=all $(BIN)/python -m pytest -n 2 tests/contract/test_target.py $(ARGS)

.PHONY: faults
faults: $(VENV)/.dev ## break every numbered I/O point in every way: DATABASE=postgresql TARGET=qemu|compute-engine|ec2 SAMPLE=n ONLY=kill SEED=n LANES=n
	@[ "$(TARGET)" != qemu ] || $(MAKE) --no-print-directory qemu
	@$(BIN)/python tests/guarantee/matrix.py $(if $(DATABASE),--database='$(DATABASE)') $(if $(TARGET),--target='$(TARGET)') \
		$(if $(SAMPLE),--sample='$(SAMPLE)') $(if $(ONLY),--only='$(ONLY)') $(if $(SEED),--seed='$(SEED)') $(if $(LANES),--lanes='$(LANES)')

.PHONY: bench
bench: $(VENV)/.dev ## measure against a bare Celery chain, side by side; prints JSON
	@$(BIN)/python benchmarks/jobs.py

.PHONY: bench-api
bench-api: $(VENV)/.dev ## measure the API against a bare handler on the same stack; prints JSON (PostgreSQL)
	@$(BIN)/python benchmarks/api.py

.PHONY: bench-lists
bench-lists: $(VENV)/.dev ## measure the first page of 1,000,000 jobs against that of 1,000; prints JSON
	@$(BIN)/python benchmarks/listing.py

.PHONY: bench-disks
bench-disks: $(VENV)/.dev ## measure clones' disks against qemu-img, cp and bare QEMU; prints JSON (SIZE_GIB=8: needs 14 GiB)
	@$(BIN)/python benchmarks/disks.py --size-gib '$(or $(SIZE_GIB),8)'

.PHONY: bench-guarantee
bench-guarantee: $(VENV)/.dev ## count what is left behind, beside a plain Celery chain; prints JSON, writes docs/side_by_side.md
	@$(BIN)/python benchmarks/guarantee.py --page docs/side_by_side.md

.PHONY: chaos
chaos: $(VENV)/.dev ## break the service's processes at random, judge by the target's log (MINUTES=10, besides about 3 for calm measurements; SEED=n DATABASE=sqlite BROKER=rabbitmq)
	@$(BIN)/python tests/guarantee/chaos/__main__.py $(if $(BROKER),--broker='$(BROKER)') --minutes='$(or $(MINUTES),10)' --database='$(or $(DATABASE),postgresql)' $(if $(SEED),--seed='$(SEED)') $(ARGS)

.PHONY: rolling
rolling: $(VENV)/.dev ## restart every worker in turn under load, judge by the target's log (RESTARTS=20 SEED=n DATABASE=sqlite BROKER=rabbitmq); prints JSON
	@$(BIN)/python tests/guarantee/chaos/rolling.py $(if $(BROKER),--broker='$(BROKER)') --restarts='$(or $(RESTARTS),20)' --database='$(or $(DATABASE),postgresql)' $(if $(SEED),--seed='$(SEED)')

.PHONY: docs-generated
docs-generated: $(VENV)/.dev ## generate docs/states.md, docs/contract.md, docs/lists.md, docs/io_points.md, docs/compute_engine.md, docs/ec2_fields.md and tables in docs/adaptation.md
	@$(BIN)/python -c 'from models.states import diagram; print(diagram(), end="")' > docs/states.md
	@$(BIN)/python -m api.coverage > docs/contract.md
	@$(BIN)/python -m models.filters.reference > docs/lists.md
	@$(BIN)/python -m targets.compute_engine.coverage > docs/compute_engine.md
	@$(BIN)/python -m models.io_table docs/io_points.md
	@$(BIN)/python -m targets.adaptation.reference docs/adaptation.md
	@$(BIN)/python -m targets.ec2.coverage > docs/ec2_fields.md

.PHONY: lock
lock: $(VENV)/.dev ## resolve the dependencies anew (versions and hashes, no addresses)
	@$(PIP) uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		--extra build pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		--extra build --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		--extra flower -c requirements-dev.lock pyproject.toml -o requirements-flower.lock

.PHONY: compose-secrets
compose-secrets: ## make the passwords that docker-compose.yml reads from ./secrets; those that are there stay
	@deploy/make-secrets.sh

.PHONY: clean
clean: ## remove what make has made here; data folders stay
	@rm -rf $(VENV) tests/clients/node/node_modules dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; install it, or name one with: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON) …"
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: python -m venv does not work; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing the locked dependencies …"
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@echo "Installing what the tests need …"
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

QEMU_PACKAGES := qemu-system-x86 qemu-utils ovmf
APT := apt-get -o DPkg::Lock::Timeout=120 -qq
.PHONY: qemu
qemu: ## install QEMU from the distribution's packages, if it is missing
	@command -v qemu-system-x86_64 >/dev/null && command -v qemu-img >/dev/null && command -v qemu-io >/dev/null && exit 0; \
	command -v apt-get >/dev/null || { \
		echo "error: QEMU is missing; install qemu-system-x86_64, qemu-img and qemu-io with your package manager, then run this again" >&2; exit 1; }; \
	if [ "$$(id -u)" = 0 ]; then as=; elif sudo -n true 2>/dev/null; then as="sudo -n"; else \
		echo "error: QEMU is missing and root is needed to install it; run this, then try again:" >&2; \
		echo "  sudo apt-get install --no-install-recommends $(QEMU_PACKAGES)" >&2; exit 1; fi; \
	echo "Installing QEMU from the system's packages …"; \
	install="$$as env DEBIAN_FRONTEND=noninteractive $(APT) install -y --no-install-recommends $(QEMU_PACKAGES)"; \
	$$install >/dev/null 2>&1 || { $$as $(APT) update >/dev/null && $$install >/dev/null; } || { \
		echo "error: QEMU could not be installed; try: apt-get install --no-install-recommends $(QEMU_PACKAGES)" >&2; exit 1; }

GUEST_PACKAGES := qemu-system-x86 qemu-utils ovmf e2fsprogs fuse3 grub-common grub-pc-bin busybox-static
GUEST_CACHE := .cache/linux-guest
GUEST_KERNEL := linux-image-cloud-amd64
COMPOSE_PACKAGES := haproxy wget
.PHONY: compose-tools
compose-tools: ## install what the tests of docker-compose.yml run by hand, besides the database and the broker
	@PATH="/usr/sbin:$$PATH"; command -v haproxy >/dev/null && command -v wget >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ]; then as=; else as="sudo -n"; fi; \
	echo "Installing $(COMPOSE_PACKAGES) …"; \
	install="$$as env DEBIAN_FRONTEND=noninteractive $(APT) install -y --no-install-recommends $(COMPOSE_PACKAGES)"; \
	$$install >/dev/null 2>&1 || { $$as $(APT) update >/dev/null && $$install >/dev/null; } || { \
		echo "error: try: apt-get install --no-install-recommends $(COMPOSE_PACKAGES)" >&2; exit 1; }

.PHONY: linux-guest-tools
linux-guest-tools: ## install what the tests' Linux guest is built of, and UEFI firmware (Debian's packages; its kernel goes to .cache)
	@missing() { \
		for p in qemu-storage-daemon debugfs e2fsck mke2fs busybox grub-mkimage fusermount3; do \
			PATH="/usr/sbin:/sbin:$$PATH" command -v $$p >/dev/null || return 0; done; \
		[ ! -f /usr/lib/grub/i386-pc/boot.img ] || [ ! -f /usr/share/OVMF/OVMF_CODE_4M.fd ]; }; \
	command -v apt-get >/dev/null || { \
		echo "error: the tests' Linux guest is built of Debian's packages, and there is no apt-get here" >&2; exit 1; }; \
	if [ "$$(id -u)" = 0 ]; then as=; else as="sudo -n"; fi; \
	if missing; then \
		echo "Installing what the tests' Linux guest is built of …"; \
		install="$$as env DEBIAN_FRONTEND=noninteractive $(APT) install -y --no-install-recommends $(GUEST_PACKAGES)"; \
		$$install >/dev/null 2>&1 || { $$as $(APT) update >/dev/null && $$install >/dev/null; } || { \
			echo "error: try: apt-get install --no-install-recommends $(GUEST_PACKAGES)" >&2; exit 1; }; \
	fi; \
	ls $(GUEST_CACHE)/boot/vmlinuz-* >/dev/null 2>&1 && exit 0; \
	echo "Fetching a kernel for the tests' Linux guest …"; \
	rm -rf $(GUEST_CACHE).new && mkdir -p $(GUEST_CACHE).new && cd $(GUEST_CACHE).new || exit 1; \
	kernel() { apt-cache depends $(GUEST_KERNEL) 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1; }; \
	[ -n "$$(kernel)" ] && apt-get -qq download "$$(kernel)" >/dev/null 2>&1 || \
		{ $$as $(APT) update >/dev/null && [ -n "$$(kernel)" ] && apt-get -qq download "$$(kernel)" >/dev/null 2>&1; } || { \
		echo "error: $(GUEST_KERNEL) could not be fetched; it is a package of Debian for x86-64" >&2; exit 1; }; \
	dpkg -x linux-image-*.deb . && rm -f linux-image-*.deb && cd - >/dev/null && \
	rm -rf $(GUEST_CACHE) && mv $(GUEST_CACHE).new $(GUEST_CACHE)
