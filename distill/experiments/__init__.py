"""Many runs: sweeps, their report, the demo."""
