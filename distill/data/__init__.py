"""From SeqIO tasks to global batches: packing, feature conversion, examples, the batch stream, the cache."""
