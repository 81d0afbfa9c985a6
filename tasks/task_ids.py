"""The number each target token carries to say which of the two tasks it belongs to."""

PAD = 0
LABEL = 1
RATIONALE = 2

NAMES = {PAD: "pad", LABEL: "label", RATIONALE: "rationale"}
