"""Starts ``distill train`` on TPU pods, GPU clusters and hosts: ``distill launch BACKEND … -- train …``.

A backend turns a :class:`~distill.tools.launch.job.Job` into a :class:`~distill.tools.launch.plan.Plan` without
running anything; ``--dry-run`` prints the plan, otherwise the plan is executed.
"""
