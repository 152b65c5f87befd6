"""The experiments of the paper: what is trained and evaluated, and the rows that result."""
