# Every target first sets up .venv, once, and again when the dependencies change. Needs Python 3.11 to 3.13 and PyPI.
#
#   make tiny                              the whole path, from the invented web to a thinking model, on two CPU cores
#   make tiny WARC=path/to/file.warc.gz    any WARC, as far as a base model
#   make chat                              talk to the model that `make tiny` left
#   make playground                        look into its models in the browser, and talk to them side by side
#   make test | quality | style            the tests; what CI checks; what a formatter can repair
#   make clean                             delete outputs/tiny and caches

.PHONY: .venv tiny chat playground test quality style clean

# The first of these for which every dependency has a wheel; `make PYTHON=...` names another.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do $$name -c \
	'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null && echo $$name && break; done)

tiny: .venv
	bash recipes/run_tiny.sh $(if $(WARC),"$(WARC)")

chat: .venv
	.venv/bin/python recipes/09_playground/chat.py --model outputs/tiny/grpo --tools true

playground: .venv
	.venv/bin/python recipes/09_playground/playground.py --run outputs/tiny

test: .venv
	.venv/bin/python -m pytest

quality: .venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

style: .venv
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf outputs/tiny build .pytest_cache .ruff_cache src/*.egg-info
	find data_processing recipes src tests -name __pycache__ -prune -exec rm -rf {} +

.venv: .venv/installed

# torch first: on Linux PyPI's brings CUDA, some gigabytes. Without a GPU this saves them:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make .venv
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 on PATH; install one, or name it: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -c constraints.txt torch
	.venv/bin/python -m pip install -c constraints.txt -e ".[all]"
	touch $@
