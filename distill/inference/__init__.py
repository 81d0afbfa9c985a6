"""Using a student: decode, evaluate, answer, export."""
