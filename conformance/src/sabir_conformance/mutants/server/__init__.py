"""Mutants of the worker, a module an area; all_mutants() imports them."""
