"""Ids of the two tasks, stored per target token."""

PAD = 0
LABEL = 1
RATIONALE = 2

NAMES = {PAD: "pad", LABEL: "label", RATIONALE: "rationale"}
