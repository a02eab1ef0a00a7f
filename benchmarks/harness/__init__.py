"""What every benchmark stands on: cases, providers, runs in processes of their own, checks, result files."""
