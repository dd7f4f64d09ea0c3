"""The subcommands of `twinbrain`, one module each: `add_parser` describes it, `run` does it (exit code)."""
