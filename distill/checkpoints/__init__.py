"""Reading and writing students: training checkpoints, conversion, Hugging Face and T5X formats."""
