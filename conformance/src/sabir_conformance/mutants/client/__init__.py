"""Mutants of the client, a module an area; all_mutants() imports them."""
