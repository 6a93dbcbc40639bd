# make run    set everything up and show live classification
# make test   set everything up and run the tests
# make check  format, lint, types, architecture
# make docs   build the documentation into site/
# make gpu-check  on a machine with an NVIDIA GPU: all that needs one
# make boot-test  as root: the systemd units in a booted container, 3 to 6 minutes
# make lock   refresh requirements.lock: the newest that pyproject.toml allows
# make test-newest, make test-oldest  the tests with the newest, with the lowest direct
#             versions that pyproject.toml allows, each in a folder of its own
# make bench  measure speed; HEMASCOPE_REAL_FIELDS=folder adds real 640x480 fields

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# Keep what Python compiles, whatever the shell says: tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE =
# The versions that setup and tests take. Users get the ranges of pyproject.toml.
LOCK ?= requirements.lock
DEVICE_LOCK ?= $(LOCK)
# Of isolated builds too. For this, pip must itself be of the lock.
PIP_LOCKED = $(PIP) --constraint $(LOCK) --build-constraint $(LOCK)
# The Pythons of JetPack 6 and 7, for the device part.
DEVICE_PYTHONS ?= python3.10 python3.12
# Without CUDA: TORCH_INDEX=https://download.pytorch.org/whl/cpu make setup
TORCH_INDEX ?=

# Debian and Ubuntu packages: broker, OpenCV's libraries, Aravis, GStreamer and what their Python
# bindings are built from, a browser for the test of the page, strace for the test that nothing is reported.
APT := python3-venv python3-dev gcc pkg-config mosquitto openssl systemd libgl1 \
	'libglib2.0-0t64|libglib2.0-0' \
	strace libcairo2-dev libgirepository1.0-dev gir1.2-gstreamer-1.0 \
	gir1.2-aravis-0.8 gir1.2-gst-plugins-base-1.0 gir1.2-gst-rtsp-server-1.0 \
	gstreamer1.0-plugins-base gstreamer1.0-plugins-good chromium chromium-driver

.PHONY: run setup test test-setup test-newest test-oldest lock device-setup device-test boot-test \
	check docs bench gpu-check clean

run: setup
	$(BIN)/hemascope demo

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml $(LOCK) setup-system.sh Makefile
	./setup-system.sh $(APT)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint $(LOCK) --upgrade pip
	@echo "setup: installing Python packages into $(VENV), this takes a few minutes"
	$(PIP_LOCKED) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		--editable ".[demo,workstation,bench,dev,docs]"
	$(PIP_LOCKED) --editable ".[gstreamer]" || \
		echo "setup: PyGObject could not be built; GStreamer sources are left out" >&2
	touch $@

# For the tests of the TensorRT runtime, which need no GPU but pycuda.
$(VENV)/.pycuda: $(VENV)/.ready install-pycuda.sh
	./install-pycuda.sh $(VENV) $(LOCK)
	touch $@

test: $(VENV)/.pycuda
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder
	$(DEVICE_TEST) $(DEVICE_PYTHONS)

DEVICE_TEST = VENV=$(VENV) LOCK=$(DEVICE_LOCK) ./device-test.sh

device-test:
	$(DEVICE_TEST) $(DEVICE_PYTHONS)

# What `make test` installs, in two parts that can go on side by side.
test-setup: $(VENV)/.pycuda device-setup

device-setup:
	$(DEVICE_TEST) --setup $(DEVICE_PYTHONS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every warning is an error, such as a link that leads nowhere; with --quiet none would be.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# uv has a folder of its own, so that a broken lock can be mended. It is not told of
# other indexes: what it writes is versions, and holds for whatever serves them.
UV := .venv-uv/bin/uv
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.10 --upgrade \
	--no-annotate --no-header pyproject.toml

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet --disable-pip-version-check \
		--constraint requirements.lock uv

lock: $(UV)
	$(COMPILE) --all-extras --group lock --output-file .venv-uv/newest.lock
	{ sed '/^#/!d' requirements.lock; cat .venv-uv/newest.lock; } >.venv-uv/headed.lock
	mv .venv-uv/headed.lock requirements.lock

# torch is held in both of these, as in the lock: a build for CPUs does for them.
test-newest: $(UV)
	$(COMPILE) --all-extras --group lock --output-file .venv-uv/newest.lock
	$(MAKE) test VENV=.venv-newest LOCK=.venv-uv/newest.lock

# Alone, the device part takes older versions than the workstation's packages let it.
test-oldest: $(UV)
	grep '^torch==' requirements.lock >.venv-uv/torch.lock
	$(COMPILE) --resolution lowest-direct --constraint .venv-uv/torch.lock \
		--all-extras --output-file .venv-uv/oldest.lock
	$(COMPILE) --resolution lowest-direct --extra demo --extra device-test \
		--output-file .venv-uv/oldest-device.lock
	$(MAKE) test VENV=.venv-oldest LOCK=.venv-uv/oldest.lock \
		DEVICE_LOCK=.venv-uv/oldest-device.lock

boot-test: setup
	./setup-system.sh debootstrap systemd-container
	./systemd/boot-test.sh $(BIN)/python

gpu-check:
	./gpu-check.sh

bench: setup
	$(BIN)/hemascope bench

clean:
	rm -rf $(VENV) .venv-* build site *.egg-info
