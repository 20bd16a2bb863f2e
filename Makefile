# make demo      a trained detector -> compress -> fly both over DDS -> demo/report.html; TRAIN=1 trains it first
# make demo-landing  a simulated vehicle lands by what its camera sees -> demo-landing/landing.png
# make px4-msgs  build the messages that the tests of the adapter to PX4 need, which skip without
# make test      the whole test suite
# make demo-real the same flight with real aerial images: UAV_DATA=<folder> make demo-real
# make test-old  the tests without ROS at the old end: Python 3.10, NumPy 1.21, OpenCV 4.5
# make soak      six hours of simulated flight in minutes: is the node's memory flat?
# make fuzz      10,000 mutations of each kind of file that strangers may send: read or refused, nothing else
# make kills     SIGKILL at random moments of a run, a comparison and a bag: do they end as undisturbed?
# make audit     known faults of the installed packages, by pip-audit
# make ptx       compile the CUDA kernel as it is shipped
# make lint      ruff, mypy, the Dockerfiles, the licence of each file, the site's links
# make docs      the site, into site/
# make look      open the site in a browser, wide and as on a phone: is anything cut? (playwright, chromium)
# make image     build the CPU image from a plain Debian and replay the demo's flight in it (buildah, mmdebstrap)
# make tutorial  type what docs/tutorial.md says in a fresh clone, on other data than the demo's
# make ros-tarball  the two ROS packages, each whole in itself, as bloom takes them
# make clean     remove what the targets made (not the virtual environment)
#
# Each target sets up what it needs first (.venv, ROS 2, the workspace); a re-run costs seconds.

SHELL := /bin/bash
PYTHON ?= python3
PYTHON310 ?= python3.10
ENV := source .venv/env.sh &&

.PHONY: help setup demo demo-real demo-landing px4-msgs test test-old soak fuzz kills audit ptx lint docs look image tutorial ros-tarball clean

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

setup:
	@$(PYTHON) ros2_ws/bootstrap.py

demo: setup
	@$(ENV) exec python -m yolo_compress.demo $(if $(TRAIN),--train)

demo-real: setup
	@$(ENV) exec python -m yolo_compress.demo --real

px4-msgs:
	@$(PYTHON) ros2_ws/bootstrap.py --px4-msgs

demo-landing: setup
	@$(ENV) exec python -m landing_demo $(ARGS)

# Tests that talk over DDS come first and alone: they wait more than they compute, and a busy machine makes them
# wait too long. The others share two cores. One that fails is tried twice more, and the summary says so.
DDS_TESTS := tests/yolo_trt_node/node tests/yolo_trt_node/replay tests/yolo_compress/demo \
  tests/yolo_autonomy/node \
  tests/benchmarks/test_node_benchmark.py tests/benchmarks/test_soak.py

test: setup
	@$(ENV) python -m pytest --reruns 2 $(DDS_TESTS) $(ARGS)
	@$(ENV) exec python -m pytest --reruns 2 --numprocesses 2 --dist loadfile $(DDS_TESTS:%=--ignore=%) $(ARGS)

# What needs no ROS.
OLD_TESTS := tests/yolo_trt_node/detector tests/yolo_trt_node/images tests/yolo_trt_node/health \
  tests/yolo_trt_node/tracking tests/yolo_trt_node/test_projection.py

test-old: .venv-old/made
	@PYTHONPATH=yolo_trt_node:. .venv-old/bin/python -m pytest $(OLD_TESTS) $(ARGS)

.venv-old/made: tests/requirements-old.txt
	@$(PYTHON310) -c '' 2>/dev/null || \
	  { echo "test-old needs Python 3.10; say where it is: make test-old PYTHON310=/path/to/python3.10"; exit 1; }
	@rm -rf .venv-old && $(PYTHON310) -m venv .venv-old
	@.venv-old/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

soak: setup
	@$(ENV) exec python benchmarks/soak.py --minutes 360 $(ARGS)

fuzz: setup
	@$(ENV) exec python benchmarks/fuzz.py $(ARGS)

kills: setup
	@$(ENV) exec python benchmarks/kills.py $(ARGS)

audit: setup
	@$(PYTHON) ros2_ws/audit.py

# The CUDA kernel as shipped, from its source, with the NVRTC that set-up has downloaded.
ptx: setup
	@$(ENV) python yolo_trt_node/make_ptx.py .venv/wheels/nvidia_cuda_nvrtc_cu11-*.whl

lint: setup
	@$(ENV) ruff check . && ruff format --check . && mypy
	@$(ENV) if command -v hadolint > /dev/null; then hadolint docker/Dockerfile*; fi
	@$(ENV) if git rev-parse 2> /dev/null; then reuse lint --quiet || reuse lint; fi
	@$(MKDOCS)

# What the theme says of its own future is no concern of who builds the site.
MKDOCS := $(ENV) NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

docs: setup
	@$(MKDOCS) && echo "site/index.html"

look: docs
	@$(ENV) exec python docs/look.py $(ARGS)

image:
	@test -d demo/flight || $(MAKE) demo
	@$(ENV) exec python docker/try_image.py --bag demo/flight --model demo/run/distilled/model.onnx $(ARGS)

tutorial: setup
	@$(ENV) exec python docs/type_tutorial.py $(ARGS)

# launch/ and config/ of the package are links to those above it, which a release of the package alone does not have.
ros-tarball:
	@rm -rf build/ros && mkdir -p build/ros/all && git archive HEAD | tar -x -C build/ros/all
	@tar -C build/ros/all --dereference --exclude=yolo_trt_node/config/compress -czf build/ros/yolo_ros.tar.gz \
	  yolo_trt_node -C ros2_ws/src yolo_autonomy && rm -r build/ros/all && echo build/ros/yolo_ros.tar.gz

clean:
	rm -rf demo demo-real demo-landing runs site ros2_ws/build ros2_ws/install ros2_ws/log
