"""The experiments of the paper: what is trained and evaluated, and the rows that result. By the way that a cell takes:

- declare: `spec`, `experiments` (and `own_model`, which puts the user's model into them);
- plan: `plan` makes `jobs` of them, `fill` leaves out what the data cannot fill, `estimate` says how long it takes;
- execute: `execute` does a job, in this process, in a `worker` of its own or on a cluster (`sweep`); it trains by
  `training` (models by `build`, pictures by `watch`), evaluates by `tasks` and takes times by `clock`;
- record: `record` makes rows, `store` writes them (under `locks`), `weights` finds and ships trained models.

The commands are thin: `run`, `table1`, `scaling` and `memory_size` choose cells; `samples`, `compare_paths` and
`gradient_bias` look at models themselves; `declare` tells the reports what is declared. `cli` is what they share.
"""
