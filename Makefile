# make demo      scenes -> compress -> fly over DDS -> demo/report.html
# make test      the whole test suite
# make demo-real the same flight with real aerial images: UAV_DATA=<folder> make demo-real
# make lint      ruff and mypy
# make clean     remove what the targets made (not the virtual environment)
#
# Each target sets up what it needs first (.venv, ROS 2, the workspace); a re-run costs seconds.

SHELL := /bin/bash
PYTHON ?= python3
ENV := source .venv/env.sh &&

.PHONY: help setup demo demo-real test lint clean

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

setup:
	@$(PYTHON) ros2_ws/bootstrap.py

demo: setup
	@$(ENV) exec python -m yolo_compress.demo

demo-real: setup
	@$(ENV) exec python -m yolo_compress.demo --real

test: setup
	@$(ENV) exec python -m pytest $(ARGS)

lint: setup
	@$(ENV) ruff check . && ruff format --check . && mypy

clean:
	rm -rf demo demo-real runs ros2_ws/build ros2_ws/install ros2_ws/log
