"""What is kept: rows with where they come from, arrays and specs, written whole under locks."""
