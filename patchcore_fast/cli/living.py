"""update and merge: banks that go on after fit."""

from __future__ import annotations

import argparse

from patchcore_fast.cli.beforehand import check_bank, check_images, need_pipeline
from patchcore_fast.cli.decision import decided_text
from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.cli.pipeline import counted, load_bank
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError

NONE = "no image has been scored by such a bank"  # why there may be no threshold


def update(args: argparse.Namespace) -> int:
    """New normal images into a bank. Images that cannot be read are left out and named."""
    if sum(value is not None for value in (args.radius, args.add, args.size)) > 1:
        raise DataError("--radius, --add and --size: one of them is wanted")
    check_bank(args.bank)
    output = writable_file(args.output or args.bank)
    check_images(args.folder)
    need_pipeline()

    from patchcore_fast.data import scan

    images = scan(args.folder)
    if output.exists():
        check_outputs_differ({"--output": output}, [("training image", r.path) for r in images.train])
    model = load_bank(args)
    before = len(model.bank)
    reached = model.update(images, radius=args.radius, add=args.add, size=args.size, on_error="return")
    model.save(output)
    bank = model.bank
    print(f"{counted(len(images.train) - len(model.unread_))} joined: {before:,} rows before, {len(bank):,} now.")
    print(f"Every new patch lies within {reached:.6g} of the bank.")
    print(decided_text(bank, NONE))
    print(f"Saved {output} ({output.stat().st_size / 1e6:.1f} MB).")
    return tell(model.unread_)


def merge(args: argparse.Namespace) -> None:
    """Banks that were made alike into one."""
    if len(args.banks) < 2:
        raise DataError(f"merge: two banks or more are wanted, got {len(args.banks)}")
    if args.size is not None and args.size < 1:
        raise DataError(f"--size must be at least 1, got {args.size}")
    for name in args.banks:
        check_bank(name)
    output = writable_file(args.output)
    need_pipeline()

    import torch

    from patchcore_fast.memory_bank import MemoryBank
    from patchcore_fast.model.living import merged

    banks = [MemoryBank.load(name) for name in args.banks]
    try:
        bank = merged(banks, args.size, torch.device("cpu"))
    except ValueError as error:
        raise DataError(str(error)) from error
    bank.save(output)
    rows = " + ".join(f"{len(one):,}" for one in banks)
    print(f"{len(banks)} banks of {rows} rows: {len(bank):,} rows now.")
    print(decided_text(bank, NONE))
    print(f"Saved {output} ({output.stat().st_size / 1e6:.1f} MB).")
