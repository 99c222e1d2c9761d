# Every target sets up first, which takes well under a second when nothing is to do. What the parts run: .ci/test.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint test-python test-ruby test-node test-protocol conformance soak bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the three languages need, into this folder where possible
	@.ci/setup

demo: setup ## Python, Ruby and Node call each other through a real server: all nine pairs
	@.venv/bin/python conformance/demo/demo.py

test: setup ## every test and lint of every language, then a table
	@.venv/bin/python .ci/test

lint: setup ## the lints and type checks alone
	@.venv/bin/python .ci/test lint

test-python: setup ## Python: tests, ruff, mypy --strict
	@.venv/bin/python .ci/test python

test-ruby: setup ## Ruby: tests with redis gem 4 and 5, ruby -wc, rubocop
	@.venv/bin/python .ci/test ruby

test-node: setup ## Node: tests, tsc --strict
	@.venv/bin/python .ci/test node

test-protocol: setup ## protocol: spec lint, schemas against vectors, the transcripts in redis-cli
	@.venv/bin/python .ci/test protocol

conformance: setup ## the suite on all ports, its mutants, its own tests; the report is .setup/conformance/index.html
	@.venv/bin/python .ci/test conformance

soak: setup ## two minutes of mixed load over all languages while workers and Redis are killed; every request is accounted for
	@.venv/bin/sabir-conformance soak --minutes 2

bench: ## what a call costs, beside the least that it can cost and beside others: under three minutes
	@.ci/setup bench
	@.venv/bin/sabir-conformance bench --short

clean: ## remove what the other targets made (no system packages)
	@rm -rf .venv .setup node/node_modules conformance/bench/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@for folder in python conformance; do [ ! -d $$folder ] || find $$folder \( -name __pycache__ -o -name '*.egg-info' -o -name '.*_cache' -o -name .hypothesis \) -prune -exec rm -rf {} +; done
