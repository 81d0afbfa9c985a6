"""The command line: entry point, flags, gin files at the door, one module per group of commands."""
