"""Starts ``distill train`` on TPU pods, GPU clusters and hosts: ``python -m tools.launch BACKEND … -- train …``.

A backend turns a :class:`~tools.launch.job.Job` into a :class:`~tools.launch.plan.Plan` without touching anything;
``--dry-run`` prints the plan, and otherwise it is carried out.
"""
