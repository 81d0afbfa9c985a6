"""Training a student: losses, optimizers, the step, the loop and its reports."""
