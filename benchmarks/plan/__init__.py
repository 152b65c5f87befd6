"""From the declared experiments and a command's options to jobs, and how long they will take."""
