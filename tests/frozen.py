"""Imported last by the process that others fork from (programs.py)."""

import gc

gc.collect()
gc.freeze()  # children would copy every page that the collector writes to
