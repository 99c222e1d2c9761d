"""The Python driver with a mutant: python -m sabir_conformance.mutants DRIVER ROLE; SABIR_MUTANT names the mutant."""

import os
import runpy
import sys

from . import VARIABLE, all_mutants

all_mutants()[os.environ[VARIABLE]].apply()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
