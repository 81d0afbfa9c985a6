"""Reports on runs: curves, comparisons, answers as numbers, cost, and the rows that change."""
