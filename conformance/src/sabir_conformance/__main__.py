"""python -m sabir_conformance."""

from .cli import main

main(prog_name="sabir-conformance")
