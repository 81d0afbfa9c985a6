"""What is learned: data sets, their records, and the SeqIO tasks made of them."""
