"""Data sets, their records, and the SeqIO tasks registered for them."""
