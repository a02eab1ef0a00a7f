"""`python -m patchcore_fast`: what `patchcore-fast` runs; torchrun wants a module."""

from patchcore_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
