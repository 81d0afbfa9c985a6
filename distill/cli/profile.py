"""``distill profile``: the longest operations of a traced run."""

import argparse


def profile_command(options: argparse.Namespace) -> int:
    import rich.box
    import rich.console
    import rich.table

    from distill.training import profiling

    found = profiling.read(options.model_dir, by_instruction=options.by_instruction)
    console = rich.console.Console(highlight=False, width=100)
    traced = f"steps {found.steps[0]} to {found.steps[-1]}" if found.steps else "no whole step"
    console.print(f"{found.path}: {traced}", soft_wrap=True)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("operation", overflow="fold")
    for name in ("count", "total ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    total = found.milliseconds
    for operation in found.operations[: options.top]:
        share = operation.milliseconds / total if total else 0.0
        name = f"{operation.name} ({operation.program})" if operation.program else operation.name
        table.add_row(name, f"{operation.count:,}", f"{operation.milliseconds:,.2f}", f"{share:.1%}")
    console.print(table)
    rest = len(found.operations) - options.top
    if rest > 0:
        console.print(f"and {rest} more operations (--top shows more); all together {total:,.2f} ms")
    phases = ", ".join(f"{name} {ms:,.1f} ms" for name, ms in sorted(found.phases.items(), key=lambda p: -p[1]))
    if phases:
        console.print(f"on the host: {phases}")
    return 0
