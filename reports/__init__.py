"""Tables and figures as pure functions of result files; nothing here imports torch."""
