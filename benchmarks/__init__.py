"""The experiments of the paper: what is trained and evaluated, and the rows that result.

Five rooms, each of which imports those before it alone: `declare`, `record`, `runs`, `plan`, `execute`. The modules
here are thin commands: `run`, `table1`, `scaling` and `memory_size` choose cells, and `samples` draws pictures.
"""
